"""Statistics of the actions and of the chosen parts of the robot's state.

A range of the actions is what integers are spread over; what is generated as numbers is normalised by them.
"""

import io
import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libs.action_form import ActionForm
from libs.errors import BadInput
from libs.files import kind_of, named_path, read_json, write_whole
from rv_train.data.base import Demonstrations
from rv_train.data.forms import describe_form, written_actions

FILE_NAME, NPZ_NAME = "action_stats.json", "action_stats.npz"
RANGES = {"min_max": ("min", "max"), "q01_q99": ("q01", "q99")}  # ACTION.RANGE -> keys of the statistics
QUANTILES = [0.01, 0.99]
NPZ_KEYS = {"min": "action_mins", "max": "action_maxs"}  # what others call them; further keys have our names


BINARY = 1e-3  # one frame in a thousand may be between


class Moments:
    """Count, mean, spread and range of rows of numbers, demo by demo, in float64.

    Two parts of n and m rows, whose means differ by d, have together the sum of squared deviations
    M = M_n + M_m + d^2 n m / (n + m): Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979. A dimension that never changes has a spread of exactly 0.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        """rows: (T, D), T > 0."""
        rows = np.asarray(rows, dtype=np.float64)
        count, mean = len(rows), rows.mean(axis=0)
        squares = ((rows - mean) ** 2).sum(axis=0)
        if self.count == 0:
            self.count, self.mean, self._squares = count, mean, squares
            self.low, self.high = rows.min(axis=0), rows.max(axis=0)
            return
        total, apart = self.count + count, mean - self.mean
        self._squares = self._squares + squares + apart**2 * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))
        self.count = total

    @classmethod
    def drawn(cls, sets: Sequence["Moments"], shares: Sequence[float]) -> "Moments":
        """Of what is drawn from several sets by shares that add up to 1; the count is that of all rows."""
        if len(sets) == 1:
            return sets[0]
        both, all_of = list(zip(sets, shares, strict=True)), cls()
        all_of.count = sum(one.count for one in sets)
        all_of.mean = sum(share * one.mean for one, share in both)
        spread = sum(share * (one._squares / one.count + (one.mean - all_of.mean) ** 2) for one, share in both)
        all_of._squares = spread * all_of.count
        all_of.low = np.min([one.low for one in sets], axis=0)
        all_of.high = np.max([one.high for one in sets], axis=0)
        return all_of

    def as_lists(self) -> dict[str, list[float]]:
        """{"min", "max", "mean", "std": lists of D floats}; std is the population's."""
        found = {"min": self.low, "max": self.high, "mean": self.mean, "std": np.sqrt(self._squares / self.count)}
        return {name: values.tolist() for name, values in found.items()}


def compute_action_stats(data: Demonstrations, form: ActionForm | None = None) -> dict:
    """Per-dimension statistics of every action as it is written, and of the chosen proprio parts.

    Of a mixture with weights they are those of what is drawn from it: mean, deviation and quantiles weigh every set by
    its share, min and max are those of all sets.

    Computed demo by demo from what data mostly holds anyway, float32 actions and parts; the quantiles need the column
    of one dimension at a time.

    form: how actions are written; None: as they are recorded. What is written of differences (`written_actions`) is
    held in memory meanwhile, 4 bytes a number of every chunk.

    Returns:
        {"min", "max", "mean", "std", "q01", "q99": lists of B floats, "count": frames, "num_demos": demos,
        "fingerprint": the data's}; with chosen parts also "proprio": {"parts": {part: dim} in their order,
        "min", "max", "mean", "std": lists of P floats}; where actions are written otherwise than recorded also "form",
        how, and "recorded": {"min", "max": lists of A floats, "usual": of rotations, see `ActionForm`}.
    """
    form = form or ActionForm(data.facts.action_dim)
    shares = [block.share for block in data.mix if block.weight] or [1.0]
    lengths = [block.demos for block in data.mix if block.weight] or [len(data.demos)]
    demos, sets = iter(data.demos), []
    for length in lengths:
        sets.append(
            _Set([(rows, written_actions(rows, form, data.horizon)) for rows in itertools.islice(demos, length)])
        )
    written, recorded, proprio = (Moments.drawn([getattr(one, of) for one in sets], shares) for of in _Set.MOMENTS)
    quantiles = [_quantiles([one.column(dim) for one in sets], shares) for dim in range(form.written_dim)]
    stats = {
        **written.as_lists(),
        "q01": [low for low, _ in quantiles],
        "q99": [high for _, high in quantiles],
        "count": recorded.count,
        "num_demos": len(data.demos),
        "fingerprint": data.fingerprint(),
    }
    if data.parts:
        stats["proprio"] = {"parts": dict(data.parts), **proprio.as_lists()}
    if not form.plain:
        stats["form"] = describe_form(form, data.horizon)
        usual = all(form.are_usual(rows.actions) for rows in data.demos)
        stats["recorded"] = {"min": recorded.low.tolist(), "max": recorded.high.tolist(), "usual": usual}
    return stats


class _Set:
    """What statistics need of some demos. MOMENTS: of what is written, of recorded actions, of the state."""

    MOMENTS = ("written", "recorded", "proprio")

    def __init__(self, demos):
        self.held = [rows for _, rows in demos]
        self.written, self.recorded, self.proprio = Moments(), Moments(), Moments()
        for rows, written in demos:
            self.written.add(written)
            self.recorded.add(rows.actions)
            self.proprio.add(rows.proprio)

    def column(self, dim):
        """(N,) float64: a number of everything that is written."""
        return np.concatenate([rows[:, dim] for rows in self.held]).astype(np.float64)


def _quantiles(columns, shares):
    """[q01, q99] of what is drawn from several sets: where the shares of the values below reach them."""
    if len(columns) == 1:
        return np.quantile(columns[0], QUANTILES).tolist()
    values = np.concatenate(columns)
    weights = np.concatenate([np.full(len(one), share / len(one)) for one, share in zip(columns, shares, strict=True)])
    order = np.argsort(values, kind="stable")
    reached = np.searchsorted(np.cumsum(weights[order]), QUANTILES)
    return values[order][np.minimum(reached, len(values) - 1)].tolist()


def action_range(stats: Mapping[str, Any], choice: str = "min_max") -> tuple[list[float], list[float]]:
    """What ACTION.RANGE chooses of statistics: (low, high), lists of A floats.

    BadInput where the statistics have no such range: other people's files may hold min and max only.
    """
    if choice not in RANGES:
        raise BadInput(f"no range {choice!r} of statistics: there are {', '.join(RANGES)}")
    for key in RANGES[choice]:
        values = stats.get(key)
        if not isinstance(values, list) or len(values) != len(stats["min"]) or not all(map(_is_finite, values)):
            raise BadInput(
                f"ACTION.RANGE {choice}: the statistics have no {key} of {len(stats['min'])} finite numbers, but "
                f"{values!r}; write them with tools/compute_stats.py, or choose min_max"
            )
    low, high = (stats[key] for key in RANGES[choice])
    crossed = [dim for dim, (a, b) in enumerate(zip(low, high, strict=True)) if a > b]
    if crossed:
        dim = crossed[0]
        raise BadInput(f"ACTION.RANGE {choice}: dimension {dim} of the statistics runs from {low[dim]} to {high[dim]}")
    return low, high


def recorded_range(stats: Mapping[str, Any], choice: str = "min_max") -> tuple[list[float], list[float]]:
    """(low, high) of the actions as they are recorded, lists of A floats: what ACTION.RANGE chooses, or, where they are
    written otherwise, their smallest and largest values."""
    return (stats["recorded"]["min"], stats["recorded"]["max"]) if "form" in stats else action_range(stats, choice)


def write_stats(stats: Mapping[str, Any], path: Path | str) -> None:
    """Write statistics as `path`, or as action_stats.json in the folder `path`, whole or not at all.

    A path that ends in .npz becomes numpy's format: arrays action_mins, action_maxs (A,) float64, and the rest.
    """
    file = _file_in(path)
    write_whole(file, stats_as_bytes(stats, file.suffix))


def stats_as_bytes(stats: Mapping[str, Any], suffix: str) -> bytes:
    """The content of a file of that suffix, ".npz" or any other for JSON; BadInput for what .npz does not hold."""
    if suffix != ".npz":
        return (json.dumps(stats, indent=1) + "\n").encode()
    if "form" in stats:
        raise BadInput(f"statistics of actions that are written as {stats['form']} are stored as .json, not .npz")
    arrays = {NPZ_KEYS.get(key, key): np.array(value) for key, value in stats.items() if key != "proprio"}
    for key, value in stats.get("proprio", {}).items():
        if key == "parts":
            arrays |= {"proprio_parts": np.array(list(value)), "proprio_dims": np.array(list(value.values()))}
        else:
            arrays[f"proprio_{key}"] = np.array(value)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read_stats(path: Path | str) -> dict:
    """The statistics in a JSON or .npz file, or in action_stats.json or .npz of a folder (a checkpoint's `model/`).

    Raises:
        BadInput: missing or broken, or no range: min and max must be finite, as many, and min at most max; or
            "proprio" is not what `compute_action_stats` gives.
    """
    file = _file_in(path)
    if file.name == FILE_NAME and not kind_of(file) and kind_of(file.with_name(NPZ_NAME)):
        file = file.with_name(NPZ_NAME)
    if not kind_of(file):
        missing = f"{path} does not exist" if file == Path(path) else f"{path} has no {file.name}"
        raise BadInput(
            f"{missing}: without the range of the actions its integers mean nothing; "
            "copy the file from the training run, or write it with tools/compute_stats.py"
        )
    stats = _read_npz(file) if file.suffix == ".npz" else read_json(file)
    for key in ("min", "max"):
        if not isinstance(stats, dict) or not isinstance(stats.get(key), list):
            raise BadInput(f"{file}: no list {NPZ_KEYS[key] if file.suffix == '.npz' else key!r}")
        bad = [value for value in stats[key] if not _is_finite(value)]
        if bad or not stats[key]:
            raise BadInput(f"{file}: {key!r} must hold finite numbers, got {bad[0] if bad else 'none'}")
    if len(stats["min"]) != len(stats["max"]):
        raise BadInput(f"{file}: 'min' has {len(stats['min'])} dimensions, 'max' has {len(stats['max'])}")
    for dim, (low, high) in enumerate(zip(stats["min"], stats["max"], strict=True)):
        if low > high:
            raise BadInput(f"{file}: dimension {dim} has min {low} above max {high}")
    if "proprio" in stats:
        _check_proprio(file, stats["proprio"])
    if "form" in stats:
        _check_recorded(file, stats)
    return stats


def read_given(path: str, action_dim: int, parts: Mapping[str, int] | None = None, form: Mapping | None = None) -> dict:
    """Statistics of DATA.STATS with the proprio of these parts, {name: numbers in it}, and of no others; BadInput where
    they are not, or of actions that are written otherwise than `form` says (`describe_form`)."""
    try:
        stats = read_stats(path)
    except BadInput as error:
        raise BadInput(f"DATA.STATS: {error}") from None
    if stats.get("form", {}) != (form or {}):
        found, wanted = (one or "recorded" for one in (stats.get("form"), form))
        raise BadInput(
            f"DATA.STATS: {path} is of actions written as {found}, this recipe writes them as {wanted}: compute it "
            "with tools/compute_stats.py FILES ACTION.MODE ..., the keys of ACTION as in the recipe, HORIZON included"
        )
    if len(stats["min"]) != action_dim:
        raise BadInput(f"DATA.STATS: {path} has {len(stats['min'])} action dimensions, ACTION.DIM is {action_dim}")
    found = stats["proprio"]["parts"] if "proprio" in stats else {}
    if parts and list(found.items()) != list(parts.items()):
        theirs, ours = (", ".join(f"{part} ({dim})" for part, dim in one.items()) for one in (found, parts))
        raise BadInput(
            f"DATA.STATS: {path} has proprio {theirs or 'of no part'}, DATA.PROPRIO of this data is {ours}: "
            f"write it with tools/compute_stats.py FILES --proprio {' '.join(parts)}"
        )
    return stats if parts else {key: value for key, value in stats.items() if key != "proprio"}


def _check_proprio(path, proprio):
    parts = proprio.get("parts") if isinstance(proprio, dict) else None
    if not isinstance(parts, dict) or not parts or any(type(dim) is not int or dim < 1 for dim in parts.values()):
        raise BadInput(f"{path}: 'proprio' has no 'parts' with the size of each, got {parts!r}")
    count = sum(parts.values())
    for key in ("min", "max", "mean", "std"):
        values = proprio.get(key)
        if not isinstance(values, list) or len(values) != count or not all(map(_is_finite, values)):
            raise BadInput(f"{path}: proprio {key!r} must hold {count} finite numbers, got {values!r}")


def _check_recorded(path, stats):
    recorded, form = stats.get("recorded"), stats["form"]
    dim = form.get("dim") if isinstance(form, dict) else None
    for key in ("min", "max"):
        values = recorded.get(key) if isinstance(recorded, dict) else None
        if not isinstance(values, list) or len(values) != dim or not all(map(_is_finite, values)):
            raise BadInput(f"{path}: 'recorded' must hold {key!r} of {dim} finite numbers, got {values!r}")
    if type(recorded.get("usual")) is not bool:
        raise BadInput(f"{path}: 'recorded' must hold 'usual', true or false, got {recorded.get('usual')!r}")


def _is_finite(value):
    return type(value) in (int, float) and math.isfinite(value)


def _read_npz(path):
    names = {theirs: ours for ours, theirs in NPZ_KEYS.items()}
    with named_path(path):
        content = io.BytesIO(Path(path).read_bytes())
    try:
        with np.load(content, allow_pickle=False) as arrays:
            stats = {names.get(key, key): arrays[key].tolist() for key in arrays.files}
        of_proprio = {key.removeprefix("proprio_"): stats.pop(key) for key in list(stats) if key.startswith("proprio_")}
        if of_proprio:
            parts = dict(zip(of_proprio.pop("parts", []), of_proprio.pop("dims", []), strict=True))
            stats["proprio"] = {"parts": parts, **of_proprio}
        return stats
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # TypeError: one array, no zip
        raise BadInput(f"{path} is not a readable .npz file: {error}") from None


def _file_in(path: Path | str) -> Path:
    path = Path(path)
    return path / FILE_NAME if kind_of(path) == "folder" else path


def is_binary(stats: Mapping[str, Any], number: int) -> bool:
    """Whether a number of the actions was always -1 or +1, as LIBERO's gripper is. Of other people's statistics that
    hold no more than the range: whether that is -1 to +1."""
    if (stats["min"][number], stats["max"][number]) != (-1, 1):
        return False
    if "mean" not in stats or "std" not in stats:
        return True
    return abs(stats["mean"][number] ** 2 + stats["std"][number] ** 2 - 1) < BINARY  # the mean square: of nothing else
