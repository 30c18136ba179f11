"""How a command line refuses bad input."""

import pytest


def refusal(main, capsys, *args) -> str:
    """The line on stderr with which `main` ends, which must have exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main([str(arg) for arg in args])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error
