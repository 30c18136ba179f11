"""What every command line here shares: bad input is one clear line and exit code 2, never a traceback."""

import functools
import sys


def cli_errors(main):
    """Wrap a `main()`: ValueError and OSError (bad input) become one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (ValueError, OSError) as error:
            message = " ".join(str(error).split())
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2) from error

    return wrapped
