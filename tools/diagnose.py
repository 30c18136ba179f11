"""Ask a trained policy what it takes from its inputs, with recorded demos: numbers, plots, and a verdict on each.

    python tools/diagnose.py --model_path checkpoints/RUN --data data/quickstart --num_demos 3
    python tools/diagnose.py --overfit 5 --cfg configs/quickstart.yaml --data data/quickstart TRAIN.max_steps 500

Does the condition (what answers are computed from) change across frames, views and instructions; does the answer
change without the pictures, the instruction, the robot's state; are adapters applied; are actions in the data's range;
how far are they from the recorded ones, open loop. diagnosis.json and the plots (PNG) go to --out.

--overfit trains CONFIG on the first N demos alone and diagnoses the result: a policy that cannot learn these by heart
will not learn more. Exit code: 0, 1 where --overfit finds that loss or open-loop error did not collapse, 2 where
something cannot be read.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from libs.cli import Numbers, Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_folder, read_json_object, short_path
from rv_eval.diagnosis import overfit
from rv_eval.diagnosis.measure import diagnose
from rv_eval.diagnosis.plots import write_plots
from rv_eval.diagnosis.text import plain, report, table
from rv_eval.policy import Policy
from rv_train.checkpoint import DATA_INFO, find_model_folder, read_model_cfg
from rv_train.config import SECTIONS, load_cfg
from rv_train.data.base import Demonstrations
from rv_train.data.load import open_data
from rv_train.data.sources import SOURCES
from rv_train.data.stats import read_stats, recorded_range
from tools.data_options import other_data
from tools.evaluation import run_name


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--model_path",
        help="run folder (its last checkpoint), step or model folder; or OWNER/NAME[@REVISION] of the hub",
    )
    add("--data", required=True, type=Path, help="demonstrations: a file, or a folder of them")
    add("--source", choices=SOURCES, help="kind of data, DATA.SOURCE (default: the one that it looks like)")
    add("--key_map", metavar="NAME_OR_PATH", help="layout of HDF5 files (default: that of the model's training)")
    add("--held_out", action="store_true", help="only demos that the model's training held out, DATA.VAL_SHARE")
    add("--num_demos", type=int, default=3, metavar="N", help="demos to play and to take frames of")
    add("--num_frames", type=int, default=24, metavar="N", help="frames whose inputs are varied")
    add("--seed", type=int, default=0, help="of what is random in answers, and of --overfit's training")
    add("--out", type=Path, help="folder of the report (default: eval_logs/diagnose_<run name>)")
    add("--device", help="where it computes: cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    add("--overfit", type=int, metavar="N", help="train on the first N demos, then diagnose that")
    add("--cfg", type=Path, help="--overfit: the recipe")
    add(
        "--threshold",
        type=float,
        default=0.02,
        help="--overfit: largest error that counts as learned, a share of the actions' range",
    )
    add("--nproc", type=int, metavar="N", help="--overfit: number of CPU ranks, as of rv_train.train")
    add("--devices", action=Numbers, help="--overfit: GPUs to train on, as of rv_train.train")
    parser.add_pairs(SECTIONS, help="--overfit: what differs from the recipe, such as TRAIN.max_steps 500")
    args = parser.parse_args(argv)
    for name in ("num_demos", "num_frames"):
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.seed < 0:
        raise BadInput(f"--seed must be at least 0, not {args.seed}")
    if args.overfit is None:
        if args.model_path is None or args.cfg or args.opts or args.nproc is not None or args.devices:
            raise BadInput("give --model_path, or --overfit N with --cfg (which alone takes KEY VALUE and ranks)")
    elif args.model_path is not None or args.cfg is None or args.held_out:
        raise BadInput("--overfit trains a policy of its own: it takes --cfg, and no --model_path or --held_out")
    return args


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.overfit is None:
        out = args.out or Path("eval_logs") / f"diagnose_{run_name(args.model_path)}"
        check_new_folder(out)
        run_diagnosis(args, args.model_path, out)
        return
    data = other_data(load_cfg(args.cfg, args.opts), [args.data], args.source, args.key_map).DATA
    out = args.out or Path("eval_logs") / f"overfit_{args.cfg.stem}"
    if (out / "run").exists():
        raise BadInput(f"{out} holds an overfit run already: choose another --out")
    check_new_folder(out)
    ranks = ["--nproc", str(args.nproc)] if args.nproc is not None else []
    ranks += ["--devices", *map(str, args.devices)] if args.devices else []
    opts = [*args.opts, "DATA.SOURCE", data.SOURCE, "DATA.KEY_MAP", data.KEY_MAP]
    run = overfit.train_on(args.cfg, opts, args.data, args.overfit, out, args.seed, ranks)
    args.num_demos = args.overfit
    tree = run_diagnosis(args, run, out)
    first, last = overfit.losses(run)
    found = overfit.verdicts(first, last, tree["open_loop"]["mae_share"], args.threshold)
    tree["overfit"] = plain(
        {"demos": args.overfit, "first_loss": first, "last_loss": last, "threshold": args.threshold}
    )
    tree["overfit"]["verdicts"] = [{"level": level, "text": text} for level, text in found]
    write_json(out, tree)
    print(f"\noverfit on {args.overfit} demos")
    print("\n".join(f"  {level:5}{text}" for level, text in found))
    if any(level == overfit.LOOK for level, _ in found):
        raise SystemExit(1)


def run_diagnosis(args: argparse.Namespace, model_path: Path | str, out: Path) -> dict:
    """Load, measure, write and print; returns the report."""
    cfg = read_model_cfg(find_model_folder(model_path))
    dataset = open_data(other_data(cfg, [args.data], args.source, args.key_map))
    if first := args.overfit or (args.held_out and cfg.DATA.MAX_DEMOS):
        dataset = dataset.first(first)
    policy = Policy.from_checkpoint(model_path, args.device)
    known = dict(zip(("min", "max"), recorded_range(read_stats(policy.folder)), strict=True))
    among = held_out(cfg, policy.folder, dataset) if args.held_out else None
    d = diagnose(policy, dataset, known, args.num_demos, args.num_frames, args.seed, among)
    tree = {
        "model": short_path(policy.folder),
        "views": list(policy.views),
        "proprio": dict(policy.proprio),
        "data": [short_path(file.path) for file in dataset.files],
        "seed": args.seed,
        **report(d),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out, tree)
    written = write_plots(out, d)
    print(f"model   {short_path(policy.folder)}")
    print(f"        looks at {', '.join(policy.views)}; proprio: {', '.join(policy.proprio) or 'not taken'}")
    pool = f"{len(dataset.demos)} demos" if among is None else f"{len(among)} demos that training held out"
    print(f"data    {args.data}: {len(d.open_loop)} of {pool}, {len(d.frames.places)} frames")
    print("\n".join(table(tree)))
    print(f"\nwritten {out / 'diagnosis.json'} and {len(written)} plots beside it")
    return tree


def held_out(cfg: CfgNode, folder: Path, dataset: Demonstrations) -> list[int]:
    """Numbers of the demos that a model's training held out; BadInput where it held none out, or of other data."""
    info = read_json_object(folder / DATA_INFO)
    if not info.get("num_valid_demos"):
        raise BadInput(f"--held_out: {short_path(folder)} was trained on all demos of its data (DATA.VAL_SHARE 0)")
    # Other wordings (DATA.INSTRUCTIONS) are in the fingerprint, and are no part of the data.
    same = (info["num_demos"], info["num_frames"]) == (len(dataset.demos), len(dataset))
    if not same or ("num_wordings" not in info and info["fingerprint"] != dataset.fingerprint()):
        raise BadInput(
            f"--held_out: --data is not what {short_path(folder)} was trained on: nothing tells its held-out ones"
        )
    _, valid = dataset.split(cfg.DATA.VAL_SHARE, cfg.EXP.SEED)
    names = {(rows.file.path, rows.name) for rows in valid.demos} if valid else set()
    return [number for number, rows in enumerate(dataset.demos) if (rows.file.path, rows.name) in names]


def write_json(folder: Path, tree: Mapping[str, Any]) -> None:
    (folder / "diagnosis.json").write_text(json.dumps(tree, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
