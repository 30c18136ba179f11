"""What an answer will probably begin with: what the one before said about actions that were not executed."""

MAX_DIGITS = 10  # of a number that is taken for a draft


def rest_of_text(text: str, executed: int) -> list[int]:
    """The integers of an answer behind the first `executed` of them, which the next answer will probably begin with;
    none of a text that holds anything else."""
    words = text.split(" ")[executed:]
    readable = all(word.isascii() and word.isdigit() and len(word) < MAX_DIGITS for word in words)
    return [int(word) for word in words] if readable else []
