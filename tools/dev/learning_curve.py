"""What a policy learns from how many samples: the losses of a run, and the success of evaluations of its checkpoints.

    python tools/dev/learning_curve.py checkpoints/libero_small eval_logs/libero_small_* \\
        --out benchmarks/libero_small_curve.json --figure docs/libero_small_curve.png

An evaluation belongs to the step of the folder `step_00001234/` that it was played with; several of one step count
together. Written are the figures (JSON) and their picture.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import read_json_object, short_path, write_whole
from rv_eval.results.records import ResultsFile, shard_files, wilson_interval
from rv_train.difference import read_curves

LOSSES = ("train/loss", "val/loss")
POINTS = 200  # of a loss in the file: neighbours become their mean


def build_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run's folder")
    add("evals", type=Path, nargs="*", metavar="EVAL", help="evaluations of its checkpoints, their --log_dir")
    add("--out", type=Path, required=True, help="file for the figures")
    add("--figure", type=Path, help="file for the picture, .png or .svg")
    return parser


@cli_errors
def main() -> None:
    args = build_parser().parse_args()
    curve = learning_curve(args.run, args.evals)
    write_whole(args.out, json.dumps(curve) + "\n")
    print("\n".join(["samples   suite           success", *map(_line, curve["success"])]))
    if args.figure:
        draw(curve, args.figure)


def learning_curve(run: Path, evals: list[Path]) -> dict[str, Any]:
    """{"samples_per_step", "losses": {tag: [[samples, loss], ...]}, "success": [{samples, suite, successes, episodes},
    ...]}, a sample is one observation with its chunk of actions.

    BadInput: no run there, no results in an evaluation, or an evaluation of something that is no step of a run.
    """
    facts = Path(run) / "run.json"
    if not facts.is_file():
        raise BadInput(f"{run} is no run: it has no run.json")
    per_step = read_json_object(facts)["global_batch_size"]
    curves = read_curves(Path(run))
    losses = {tag: _thinned([(step * per_step, loss) for step, loss in curves.get(tag, [])]) for tag in LOSSES}
    outcomes = defaultdict(list)
    for folder in evals:
        found = shard_files(folder, "results")
        if not found:
            raise BadInput(f"{folder} holds no results of an evaluation")
        for record in [record for file in found for record in ResultsFile(file).read()]:
            step = re.search(r"step_(\d+)", record["model_folder"])
            if step is None:
                raise BadInput(f"{folder}: played with {record['model_folder']}, which names no step of a run")
            outcomes[int(step[1]) * per_step, record["suite"]].append(record["success"])
    success = [
        {"samples": samples, "suite": suite, "successes": sum(solved), "episodes": len(solved)}
        for (samples, suite), solved in sorted(outcomes.items())
    ]
    return {"samples_per_step": per_step, "losses": losses, "success": success}


def _thinned(points):
    width = -(-len(points) // POINTS) or 1
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [[group[-1][0], round(sum(loss for _, loss in group) / len(group), 5)] for group in groups]


def _line(row):
    low, high = wilson_interval(row["successes"], row["episodes"])
    rate = f"{row['successes']}/{row['episodes']}  {100 * low:.0f}-{100 * high:.0f} %"
    return f"{row['samples']:>7}   {row['suite']:<15} {rate}"


def draw(curve: dict[str, Any], path: Path) -> None:
    """Losses above, success with 95 % intervals below, over samples seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), layout="constrained")
    for tag, points in curve["losses"].items():
        if points:
            samples, losses = zip(*points, strict=True)
            above.plot([count / 1000 for count in samples], losses, label=tag, marker="o" if tag == "val/loss" else "")
    above.set(ylabel="loss per token", yscale="log")
    if any(curve["losses"].values()):
        above.legend()
    for suite in sorted({row["suite"] for row in curve["success"]}):
        rows = [row for row in curve["success"] if row["suite"] == suite]
        rates = [100 * row["successes"] / row["episodes"] for row in rows]
        ends = [[100 * end for end in wilson_interval(row["successes"], row["episodes"])] for row in rows]
        spread = [
            [rate - low for rate, (low, _) in zip(rates, ends, strict=True)],
            [high - rate for rate, (_, high) in zip(rates, ends, strict=True)],
        ]
        places = [row["samples"] / 1000 for row in rows]
        below.errorbar(places, rates, spread, label=suite, marker="o", capsize=3)
    below.set(ylabel="success, %", ylim=(0, 102), xlabel="samples seen, thousands")
    if curve["success"]:
        below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"figure: {short_path(path)}")


if __name__ == "__main__":
    main()
