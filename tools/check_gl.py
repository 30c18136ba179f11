"""Say in one line whether the simulator can draw on this machine, or which Debian packages it needs."""

import sys

from libs.libero_sim import prepare_gl


def main():
    try:
        prepare_gl()
    except RuntimeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
