"""What demonstrations are looked at for before they are used: one place for a run, its --dry_run and the tools.

Problems are what nobody can train on, or means to: `refuse` them. Remarks are what somebody should know before hours of
training. All are one pass over actions; pictures are read only of demos whose actions are those of another one, a
picture each. What only HDF5 files can have: `hdf5_checks`.

`demos` are lists of `rv_train.data.base.Demo`, `data` is a `Demonstrations`.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from libs.action_text import is_constant
from libs.errors import BadInput
from rv_train.data.base import Demo, Demonstrations, Facts

MAX_INSTRUCTION = 512  # bytes of UTF-8: no more tokens than that; rv_eval/serving/protocol.py takes no longer ones
SQUEEZED = 0.1  # share of a range: where nearly all values lie in less, a few others have made it so wide
USUAL_BINS = 1000  # what ACTION.NUM_BINS is unless a recipe says otherwise: for tools that read none
FEW = 100  # one value in so many (at least one) counts as few


def refuse(problems: Iterable[str]) -> None:
    """BadInput with the first of some problems, if there is any."""
    problems = list(problems)
    if problems:
        more = len(problems) - 1
        rest = f"; and {more} more problem{'s' * (more > 1)} of this kind" if more else ""
        raise BadInput(f"{problems[0]}{rest}")


# ------------------------------------------------------------------------------------------------ problems


def choice_problems(facts: Facts, cfg: CfgNode, where: Path | str) -> Iterator[str]:
    """Cameras and parts of the robot's state that a recipe chooses and data does not have, and another size of action.

    where: the data, for messages.
    """
    for key, chosen, known in (
        ("DATA.VIEWS", cfg.DATA.VIEWS, facts.cameras),
        ("DATA.PROPRIO", cfg.DATA.PROPRIO, facts.proprio),
    ):
        missing = [name for name in chosen if name not in known]
        if missing:
            yield f"{key}: {where} has no {missing[0]!r}; it has {', '.join(known) or 'none'}"
    if facts.action_dim != cfg.ACTION.DIM:
        yield f"ACTION.DIM is {cfg.ACTION.DIM}, actions of {where} have {facts.action_dim} dimensions"


def unlike_problems(files: Sequence[tuple[Path, Facts]], cfg: CfgNode) -> Iterator[str]:
    """Files or sets whose chosen cameras or parts of the robot's state have other sizes than those of the first."""
    (first, known), *others = files
    for path, facts in others:
        for ours, theirs, names in (
            (known.cameras, facts.cameras, cfg.DATA.VIEWS),
            (known.proprio, facts.proprio, cfg.DATA.PROPRIO),
        ):
            for name in names:
                if ours[name] != theirs[name]:
                    yield f"{path}: {name} has {theirs[name]}, that of {first} {ours[name]}: data of one run are alike"


def text_problem(text: str) -> str:
    """What is wrong with an instruction, "" if nothing."""
    if not any(map(str.isalnum, text)):
        return "is empty"
    if len(text.encode()) > MAX_INSTRUCTION:
        return f"has {len(text.encode()):,} bytes, at most {MAX_INSTRUCTION} are taken ({text[:40]!r} ...)"
    return f'holds "<|", with which the marks of the model begin ({text[:60]!r})' if "<|" in text else ""


def number_problems(demos: Sequence[Demo]) -> Iterator[str]:
    """Actions that are no numbers, and robot states."""
    for rows in demos:
        for values, what in ((rows.actions, "dimension {} of the action"), (rows.proprio, "number {} of DATA.PROPRIO")):
            bad = ~np.isfinite(values)
            if bad.any():
                frame, place = np.argwhere(bad)[0]
                yield (
                    f"{rows.file.path}, {rows.name}: {what.format(place)} at frame {frame} is {values[frame, place]}, "
                    f"not a finite number ({int(bad.any(axis=1).sum())} such frames): mend the demo or leave it out"
                )


def motion_problems(demos: Sequence[Demo]) -> Iterator[str]:
    """Data in which no dimension of the actions ever changes."""
    low, high = _extent([rows.actions for rows in demos])
    if is_constant(low, high).all():
        yield (
            f"{demos[0].file.path}, {demos[0].name}: all actions of {_plural(len(demos), 'demo')} are the same, "
            f"{[round(float(value), 6) for value in low]}: nothing can be learned; are they the robot's?"
        )


# ------------------------------------------------------------------------------------------------ remarks


def demo_remarks(
    data: Demonstrations,
    low: np.ndarray | Sequence[float],
    high: np.ndarray | Sequence[float],
    num_bins: int | None = None,
    written: Sequence[np.ndarray] | None = None,
) -> list[str]:
    """Lines about data that can be trained on, its own remarks first; each says what follows from it.

    Args:
        low, high: (B,) the range in use.
        num_bins: integers that it is divided into; None for a policy that writes none.
        written: see `range_remarks`.
    """
    return [
        *data.remarks(),
        *_length_remarks(data.demos, data.horizon),
        *copy_remarks(data.demos, lambda number: data.picture(number, 0, data.views[0])),
        *range_remarks(data.demos, low, high, num_bins, written),
    ]


def constant_dims(stats: dict) -> Iterator[str]:
    """What never changes in the data of these statistics, a line each: nothing can be learned there, or from it."""
    still, what_of = is_constant(stats["min"], stats["max"]), "written actions" if "form" in stats else "actions"
    for dim, (low, high) in enumerate(zip(stats["min"], stats["max"], strict=True)):
        what = f"dimension {dim} of the {what_of}"
        if low == high:
            yield f"{what} never changes: it is {low:g} in every frame, and will be in every answer"
        elif still[dim]:
            middle = low + (high - low) / 2
            yield f"{what} never changes but for noise, {low:.9g} to {high:.9g}: it is taken for {middle:g} everywhere"
    if "proprio" in stats:
        proprio = stats["proprio"]
        names = [f"{part} {n}" for part, dim in proprio["parts"].items() for n in range(dim)]
        for name, low, high in zip(names, proprio["min"], proprio["max"], strict=True):
            if low == high:
                yield f"proprio {name} never changes: it is {low:g} in every frame, and tells a policy nothing"


def _length_remarks(demos, horizon):
    short = [rows for rows in demos if len(rows.actions) < horizon]
    if short:
        first = min(short, key=lambda rows: len(rows.actions))
        yield (
            f"{len(short)} of {_plural(len(demos), 'demo')} have fewer frames than the {horizon} actions of a chunk: "
            "all their chunks end with repetitions of the last action; the shortest is "
            f"{first.file.path}, {first.name}: {len(first.actions)}"
        )


def copy_remarks(demos: Sequence[Demo], first_picture: Callable[[int], np.ndarray]) -> Iterator[str]:
    """Demos with the actions and the first picture of an earlier one. first_picture: of the demo of a number."""
    first_with, copies = {}, []
    for number, rows in enumerate(demos):
        digest = hashlib.blake2b(rows.actions.tobytes(), digest_size=16).digest()
        twin = first_with.setdefault(digest, number)
        if twin != number and np.array_equal(first_picture(twin), first_picture(number)):
            copies.append((demos[twin], rows))
    if copies:
        twin, rows = copies[0]
        who, counts = ("repeat", "they count") if len(copies) > 1 else ("repeats", "it counts")
        place = f"{twin.name}" if rows.file is twin.file else f"{twin.file.path}, {twin.name}"
        yield (
            f"{_plural(len(copies), 'demo')} of {len(demos)} {who} another one, actions and first picture: "
            f"{rows.file.path}, {rows.name} has those of {place}; {counts} twice, and with DATA.VAL_SHARE a copy may "
            "be held out of what is trained on"
        )


def range_remarks(
    demos: Sequence[Demo],
    low: np.ndarray | Sequence[float],
    high: np.ndarray | Sequence[float],
    num_bins: int | None,
    written: Sequence[np.ndarray] | None = None,
) -> Iterator[str]:
    """Of every dimension: values that make the range too wide for all others, or that a narrow one leaves out.

    written: of every demo (n, B) what is written of it, equally many rows for each frame; None: its actions.
    """
    low, high = np.asarray(low), np.asarray(high)
    what, values = ("actions", [rows.actions for rows in demos]) if written is None else ("written actions", written)
    data_low, data_high = _extent(values)
    still, shut = is_constant(data_low, data_high), is_constant(low, high)
    for dim in np.flatnonzero(~still):
        column, named = (
            np.concatenate([one[:, dim] for one in values]).astype(np.float64),
            f"dimension {dim} of the {what}",
        )
        if shut[dim]:
            lost = int((~is_constant(np.minimum(column, low[dim]), np.maximum(column, low[dim]))).sum())
            yield (
                f"{named}: the range in use is the one value {low[dim]:g}, and {lost:,} of "
                f"{len(column):,} values are others, from {data_low[dim]:g} to {data_high[dim]:g}: they are clipped to "
                "it; ACTION.RANGE min_max, or DATA.STATS with a range of your own, keeps them"
            )
        else:
            yield from _outlier_remark(demos, named, column, (low[dim], high[dim]), num_bins)


def _outlier_remark(demos, named, column, used, num_bins):
    """named: the dimension; column: (N,) all its values; used: its range."""
    values = np.clip(column, *used)
    away = np.abs(values - np.median(values))
    few = max(1, len(values) // FEW)
    rest = values[np.argpartition(away, -few)[:-few]]
    if len(rest) == 0 or is_constant(rest.min(), rest.max()):  # a switch that is seldom thrown needs no bins between
        return
    low, high = float(rest.min()), float(rest.max())
    share = (high - low) / (used[1] - used[0])
    if share >= SQUEEZED or values.max() - values.min() < (used[1] - used[0]) / 2:  # the range is not this data's
        return
    worst = int(away.argmax())
    quantiles = np.quantile(column, [0.01, 0.99])
    if num_bins is None:
        what = f"lie in {share:.1%} of the range, {low:g} to {high:g}, and errors in them hardly count"
        remedy = "mend that demo or leave it out; FLOW.NORMALIZE mean_std is disturbed less"
    else:
        bins = f"{_bins(share, num_bins)} of the {num_bins:,} bins"
        what = f"lie between {low:g} and {high:g}, in {bins}, and answers are no finer"
        clipped = _bins((high - low) / max(quantiles[1] - quantiles[0], high - low), num_bins)
        remedy = "mend that demo or leave it out"
        if clipped > 2 * _bins(share, num_bins):
            remedy += (
                f", or clip the range: ACTION.RANGE q01_q99 is {quantiles[0]:g} to {quantiles[1]:g} and gives them "
                f"{clipped:,} bins"
            )
    yield (
        f"{named} is {column[worst]:g} in {_place(demos, worst, len(column))}; the other "
        f"{math.floor(100 * len(rest) / len(values))} % of the values {what}: {remedy}"
    )


def _bins(share, num_bins):
    return max(1, math.ceil(share * num_bins))


def _place(demos, index, rows_in_all):
    """Number of a row, counted over all demos, of which every frame has equally many -> where it stands."""
    index //= rows_in_all // sum(len(rows.actions) for rows in demos)
    ends = list(itertools.accumulate(len(rows.actions) for rows in demos))
    number = int(np.searchsorted(ends, index, side="right"))
    rows = demos[number]
    return f"{rows.file.path}, {rows.name}, frame {index - ends[number] + len(rows.actions)}"


def _extent(values):
    """[(n, A), ...] → (smallest, largest), (A,) each."""
    return (
        np.min([one.min(axis=0) for one in values], axis=0),
        np.max([one.max(axis=0) for one in values], axis=0),
    )


def _plural(number, name):
    return f"{number:,} {name}{'s' * (number != 1)}"
