"""Compare two evaluations of the same policy episode by episode: they must be equal, whatever happened on the way.

    python tools/compare_evals.py eval_logs/ONE_RUN eval_logs/EIGHT_SHARDS

Equal means: the same episodes, each exactly once, run under the same settings, with the same success, steps, queries,
parse failures and repairs. Times, incidents and how the work was divided may differ. To ask whether two policies differ
by more than chance: tools/summarize_eval.py. Exit code: 0 equal, 1 not, 2 where a folder cannot be read.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from libs.cli import cli_errors
from rv_eval.results.records import SETTING_KEYS
from rv_eval.results.summary import gather, list_episodes

OUTCOME = ("success", "steps", "queries", "parse_failures", "repaired")


def compare_evals(
    first: Path | str, second: Path | str, only: Sequence[str] = (), ignore: Sequence[str] = ()
) -> list[str]:
    """What differs between the evaluations in two folders, one line each; nothing where they are equal.

    only: "KEY=VALUE" of the records to take, where a folder holds several runs. ignore: settings that may differ.
    BadInput: a folder without results, or with several runs that `only` does not tell apart.
    """
    folders, found = (Path(first), Path(second)), []
    runs = [gather([folder], only) for folder in folders]
    episodes = [{line.episode: line for line in run.episodes} for run in runs]
    for folder, run, others in zip(folders, runs, reversed(episodes), strict=True):
        repeated = [repeat.lines[0].episode for repeat in run.repeats]
        found += [f"{folder}: several records: {text}" for text in list_episodes(repeated)]
        found += [f"{folder}: planned, but not run: {text}" for text in list_episodes(run.missing)]
        alone = [line.episode for line in run.episodes if line.episode not in others]
        found += [f"{folder}: not in the other: {text}" for text in list_episodes(alone)]
    settings = [dict(run.episodes[0].measurement) for run in runs]
    names = [name for name in dict.fromkeys((*settings[0], *settings[1])) if name not in ignore]
    found += _differing(settings[0], settings[1], names)
    for episode in [episode for episode in episodes[0] if episode in episodes[1]]:
        first_values, second_values = (each[episode].values for each in episodes)
        differing = _differing(first_values, second_values, OUTCOME)
        found += [f"{list_episodes([episode])[0]}: {text}" for text in differing]
    return found


def _differing(first: dict, second: dict, names: Iterable[str]) -> list[str]:
    return [f"{n}: {first.get(n)} and {second.get(n)}" for n in names if first.get(n) != second.get(n)]


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("evaluations", nargs=2, type=Path, metavar="DIR")
    add("--only", nargs="+", default=[], metavar="KEY=VALUE", help="records to take, where there are several runs")
    add("--ignore", nargs="+", default=[], choices=SETTING_KEYS, metavar="KEY", help="settings that may differ")
    args = parser.parse_args(argv)
    first, second = args.evaluations
    found = compare_evals(first, second, args.only, args.ignore)
    if found:
        print("\n".join(found))
        raise SystemExit(1)
    episodes = gather([args.evaluations[0]], args.only).episodes
    print(f"equal: {', '.join(list_episodes(line.episode for line in episodes))}")


if __name__ == "__main__":
    main()
