"""Two runs over the same episodes: how far apart they are, and whether chance alone would give that.

Episodes are paired by suite, task, init state, seed and instruction. Only pairs with different outcomes tell the runs
apart:

- The test is McNemar's, exact and two-sided: were the runs equally good, each such pair would fall to either side
  like a fair coin (McNemar 1947; exact form as in Fagerland, Lydersen, Laake, Statistics in Medicine 33:2850, 2014).
- The interval of the difference is Tango's score interval for paired proportions (Tango, Statistics in Medicine
  17:891-908, 1998), which has a sensible width where no pair differs, unlike Wald's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from libs.errors import BadInput
from rv_eval.results.summary import Line, Run, dependencies, order

CHANCE = 0.05  # a difference that chance alone gives less often is called larger than chance
Z = 1.959964  # two-sided 95 %
SHARDS = ("shard_id", "num_shards")  # how the work was divided is no difference between runs


@dataclass(frozen=True)
class Comparison:
    """pairs: (episode of A, the same of B). alone_a, alone_b: episodes (values of EPISODE_KEYS) the other lacks."""

    pairs: list[tuple[Line, Line]]
    alone_a: list[tuple]
    alone_b: list[tuple]

    def _count(self, a: bool, b: bool) -> int:
        return sum((first.values["success"], second.values["success"]) == (a, b) for first, second in self.pairs)

    @property
    def both(self) -> int:
        return self._count(True, True)

    @property
    def only_a(self) -> int:
        return self._count(True, False)

    @property
    def only_b(self) -> int:
        return self._count(False, True)

    @property
    def identical(self) -> int:
        """Pairs that agree in the number of steps too."""
        return sum(first.outcome == second.outcome for first, second in self.pairs)

    @property
    def difference(self) -> float:
        """Success rate of B minus that of A, over the pairs."""
        return (self.only_b - self.only_a) / len(self.pairs)

    @property
    def interval(self) -> tuple[float, float]:
        return tango_interval(self.only_b, self.only_a, len(self.pairs))

    @property
    def p_value(self) -> float:
        return mcnemar_exact(self.only_a, self.only_b)

    def part(self, belongs: Callable[[Line], bool]) -> "Comparison":
        """The comparison over a part of the pairs."""
        return Comparison([pair for pair in self.pairs if belongs(pair[0])], [], [])


def compare(run_a: Run, run_b: Run) -> Comparison:
    """BadInput: no episode is in both."""
    first, second = ({line.episode: line for line in run.episodes} for run in (run_a, run_b))
    pairs = [(line, second[episode]) for episode, line in first.items() if episode in second]
    if not pairs:
        raise BadInput("the two runs have no episode in common (same suite, task, init state, seed, instruction)")
    return Comparison(pairs, sorted(first.keys() - second, key=order), sorted(second.keys() - first, key=order))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """How often a fair coin, thrown only_a + only_b times, falls as unevenly as this or more so."""
    throws = only_a + only_b
    tail = sum(math.comb(throws, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**throws)


def tango_interval(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired success rates; its estimate is (gained - lost) / pairs.

    It holds every difference d that the score test does not reject: (gained - lost - pairs * d)^2 is at most
    Z^2 times its variance under d, in which P(lost) is the most likely one under d.
    """

    def accepted(d: float) -> bool:
        b = (2 * pairs - gained + lost) * d - gained - lost
        p_lost = (math.sqrt(max(0.0, b * b + 8 * pairs * lost * d * (1 - d))) - b) / (4 * pairs)
        variance = pairs * (2 * p_lost + d * (1 - d))
        return (gained - lost - pairs * d) ** 2 <= Z * Z * variance

    estimate = (gained - lost) / pairs
    return _edge(accepted, estimate, -1.0), _edge(accepted, estimate, 1.0)


def _edge(accepted: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `accepted` ends between a place where it is true and one beyond its end, by halving."""
    for _ in range(60):
        middle = (inside + outside) / 2
        if accepted(middle):
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2


def verdict(comparison: Comparison) -> str:
    """The result in words."""
    low, high = comparison.interval
    interval = f"B - A: 95 % {100 * low:+.1f} to {100 * high:+.1f}"
    only_a, only_b, pairs = comparison.only_a, comparison.only_b, len(comparison.pairs)
    if only_a == only_b == 0:
        steps = "all of them with" if comparison.identical == pairs else f"{comparison.identical} of them with"
        return f"A and B have the same outcome in all {pairs} episodes, {steps} the same number of steps ({interval})."
    counts = f"{only_b} episodes only B solved, {only_a} only A"
    if only_a == only_b:
        return f"A and B solve equally many ({interval}): {counts}."
    size = 100 * abs(comparison.difference)
    better = "better" if comparison.difference > 0 else "worse"
    is_larger = comparison.p_value < CHANCE
    text = (
        f"B is {size:.1f} points {better} ({interval}): {counts}. Chance alone gives a difference of this size or "
        f"more in {_share(comparison.p_value)} cases: {'larger' if is_larger else 'not larger'} than chance."
    )
    if is_larger == (low <= 0 <= high):
        text += " A close call: the test is exact, the interval, which says otherwise, is an approximation."
    return text


def _share(p_value: float) -> str:
    if p_value < 0.001:
        return "fewer than 1 in 1,000"
    percent = 100 * p_value
    digits = 0 if percent >= 10 else 1 if percent >= 1 else 2
    if abs(percent - 100 * CHANCE) < 0.1:  # on which side it lies must show
        digits = 3
    return f"{percent:.{digits}f} % of"


def differing_settings(run_a: Run, run_b: Run) -> dict[str, tuple[list, list]]:
    """Field -> (its values in A, its values in B), where they differ, of everything that the results depend on."""
    first, second = dependencies(run_a), dependencies(run_b)
    found = {}
    for name in {**first, **second}:
        a, b = ([value for value, _ in side.get(name, [(None, 0)])] for side in (first, second))
        if name not in SHARDS and sorted(map(repr, a)) != sorted(map(repr, b)):
            found[name] = (a, b)
    return found
