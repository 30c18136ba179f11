"""What every command line here shares: how its options read (options.py), and how it ends.

Exit codes: 0 done; 1 failed: a traceback, or a line of the tool's own; 2 bad input: one line on stderr; 130 interrupted
from the keyboard: one line. The trainer adds 75, stopped by a signal after it saved.
"""

import functools
import io
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from libs.cli.options import Numbers, Parser, Switch
from libs.errors import BadInput

__all__ = ["EXTRAS", "TRACEBACK", "Numbers", "Parser", "Switch", "cli_errors"]

P = ParamSpec("P")
T = TypeVar("T")

EXTRAS = {
    "libero": "sim",
    "robosuite": "sim",
    "mujoco": "sim",
    "websockets": "serve",
    "msgpack": "serve",
    "pyarrow": "lerobot",
    "av": "lerobot",
    "PIL": "serve",
    "wandb": "wandb",
}
TRACEBACK = "VLA0_TRACEBACK"  # set to anything but 0: show where bad input was found, too


def cli_errors(main: Callable[P, T]) -> Callable[P, T]:
    """Wrap a `main()`: BadInput, and a package of EXTRAS that is not installed, become one line on stderr and exit
    code 2, Ctrl-C one line and 130. A KeyboardInterrupt's own text, if it has one, says what goes on from there.

    Every other exception keeps its traceback, and Python ends with exit code 1.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            result = main(*args, **kwargs)
            sys.stdout.flush()  # at its end Python would say of a closed pipe that an exception was ignored
            return result
        except BadInput as error:
            _end(2, f"error: {error}", error)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            _end(2, f"error: {package} is not installed: pip install -e '.[{EXTRAS[package]}]'", error)
        except KeyboardInterrupt as error:
            _end(130, "; ".join(("interrupted", *map(str, error.args))), error)
        except BrokenPipeError:
            if not _nobody_reads_on():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None  # of `... | head`: nobody reads on
        except SystemExit as end:
            if end.code == 1 and end.__cause__ is not None:  # the tool has said in a line why
                _show(end.__cause__)
            raise

    return wrapped


def _end(code, line, error):
    _show(error)
    print(" ".join(line.split()), file=sys.stderr)
    raise SystemExit(code) from error


def _show(error):
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)


def _nobody_reads_on():
    """Whether standard output is a pipe whose other end is closed."""
    try:
        output = sys.stdout.fileno()
    except io.UnsupportedOperation:  # not a file
        return False
    poll = select.poll()
    poll.register(output, 0)  # errors are always told
    return any(event & select.POLLERR for _, event in poll.poll(0))
