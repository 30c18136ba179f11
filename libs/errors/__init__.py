"""The one class of errors that a user can mend."""


class BadInput(ValueError):
    """What was given cannot be used: a flag, a config key, a file, a message.

    The text names the offending value, the file and the demo, and says what to do. A command line prints it as one
    line and ends with exit code 2 (libs.cli); every other exception is a fault of the program or of the machine and
    keeps its traceback.
    """


def first_line(error: BaseException) -> str:
    """What an exception of a library says first, its type where it says nothing: a part of an error's one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
