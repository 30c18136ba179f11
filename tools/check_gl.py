"""Say in one line whether the simulator can draw on this machine, or which Debian packages it needs."""

from libs.cli import cli_errors
from libs.libero_sim import prepare_gl


@cli_errors
def main():
    prepare_gl()


if __name__ == "__main__":
    main()
