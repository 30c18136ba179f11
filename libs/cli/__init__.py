"""What every command line here shares: bad input is one clear line and exit code 2, never a traceback."""

import functools
import sys

EXTRAS = {
    "libero": "sim",
    "robosuite": "sim",
    "mujoco": "sim",
    "imageio": "sim",
    "websockets": "serve",
    "msgpack": "serve",
}


def cli_errors(main):
    """Wrap a `main()`: BadInput and OSError (bad input), and a package of EXTRAS that is not installed, become one
    line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (ValueError, OSError) as error:
            message = " ".join(str(error).split())
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            print(f"error: {package} is not installed: pip install -e '.[{EXTRAS[package]}]'", file=sys.stderr)
            raise SystemExit(2) from error

    return wrapped
