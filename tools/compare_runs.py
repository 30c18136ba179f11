"""The name of tools/compare.py before it took everything; it goes with the next release."""

from collections.abc import Sequence

from libs.cli.old import say
from tools import compare


def main(argv: Sequence[str] | None = None) -> None:
    say("tools/compare_runs.py", "tools/compare.py")
    compare.main(argv)


if __name__ == "__main__":
    main()
