"""Whether two evaluations are equal, episode by episode, whatever happened on the way.

Equal means: the same episodes, each exactly once, run under the same settings, with the same success, steps, queries,
parse failures and repairs. Times, incidents and how the work was divided may differ.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rv_eval.results.summary import Run, gather, list_episodes, show

OUTCOME = ("success", "steps", "queries", "parse_failures", "repaired")


def compare_evals(
    first: Path | str, second: Path | str, only: Sequence[str] = (), ignore: Sequence[str] = ()
) -> list[str]:
    """`evaluation_differences` of the evaluations in two folders.

    only: "KEY=VALUE" of the records to take, where a folder holds several runs. BadInput: a folder without results, or
    with several runs that `only` does not tell apart.
    """
    run_a, run_b = (gather([folder], only) for folder in (first, second))
    return evaluation_differences(run_a, run_b, (str(first), str(second)), ignore)


def evaluation_differences(
    run_a: Run, run_b: Run, names: tuple[str, str] = ("A", "B"), ignore: Sequence[str] = ()
) -> list[str]:
    """What differs between two evaluations, one line each; nothing where they are equal.

    names: what the lines call them. ignore: settings that may differ.
    """
    runs, found = (run_a, run_b), []
    episodes = [{line.episode: line for line in run.episodes} for run in runs]
    for name, run, others in zip(names, runs, reversed(episodes), strict=True):
        repeated = [repeat.lines[0].episode for repeat in run.repeats]
        found += [f"{name}: several records: {text}" for text in list_episodes(repeated)]
        found += [f"{name}: planned, but not run: {text}" for text in list_episodes(run.missing)]
        alone = [line.episode for line in run.episodes if line.episode not in others]
        found += [f"{name}: not in the other: {text}" for text in list_episodes(alone)]
    settings = [dict(run.episodes[0].measurement) for run in runs]
    compared = [name for name in dict.fromkeys((*settings[0], *settings[1])) if name not in ignore]
    found += _differing(settings[0], settings[1], compared)
    for episode in [episode for episode in episodes[0] if episode in episodes[1]]:
        first_values, second_values = (each[episode].values for each in episodes)
        differing = _differing(first_values, second_values, OUTCOME)
        found += [f"{list_episodes([episode])[0]}: {'; '.join(differing)}"] if differing else []
    return found


def _differing(first: dict, second: dict, names: Iterable[str]) -> list[str]:
    pairs = [(name, first.get(name), second.get(name)) for name in names]
    return [f"{name}: {_told(a)} and {_told(b)}" for name, a, b in pairs if a != b]


def _told(value):
    return show(value) if isinstance(value, str) else value  # a hash shortened
