"""What an answer will probably begin with: what the one before said about actions that were not executed."""

MAX_DIGITS = 10  # of a number that is taken for a draft


def numbers_of(text: str) -> list[int]:
    """The integers of an answer that came as text; none of one that holds anything else."""
    words = text.split(" ")
    readable = all(word.isascii() and word.isdigit() and len(word) < MAX_DIGITS for word in words)
    return [int(word) for word in words] if readable else []
