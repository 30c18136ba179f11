"""Print the run folder of a recipe and KEY VALUE pairs: `python -m tools.slurm.run_folder RECIPE [KEY VALUE ...]`."""

import sys
from collections.abc import Sequence

from libs.cli import cli_errors
from rv_train.config import load_cfg


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    recipe, *opts = sys.argv[1:] if argv is None else argv
    cfg = load_cfg(recipe, opts)
    print(f"{cfg.EXP.DIR}/{cfg.EXP.ID}")


if __name__ == "__main__":
    main()
