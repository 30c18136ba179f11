"""What is in HDF5 files of demonstrations, file by file: their layout, numbers and pictures as they are stored."""

import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from libs.action_text import is_constant
from libs.demo_hdf5 import LIBERO, DemoFile, KeyMap, demo_files, verify_demo_file
from libs.demo_hdf5.layout import find_key_map, key_problems
from libs.demo_hdf5.opening import Unreadable, filters_of, open_file
from libs.errors import BadInput
from rv_train.data import checks, hdf5_checks
from rv_train.data.hdf5 import rate_of, read_rows
from tools.inspection.text import LABEL_WIDTH, Outcome, lengths_text, names_of, row, table


def inspect(entries: Sequence[str], key_map: str | None, verified: bool, num_replayed: int) -> Outcome:
    """Print what is in files and folders; those that cannot be read are reported, too.

    key_map: name or path, None to find the one that fits each file. verified: check every value and picture, and replay
    the first `num_replayed` demos of each in the simulator.
    """
    given = KeyMap.find(key_map) if key_map else None
    if verified:
        check_graphics()
    opened, problems, unreadable, stored = [], 0, False, []
    for path in demo_files(*entries):
        try:
            demos = report(path, given)
        except BadInput as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            unreadable = True
            continue
        if demos is None:
            problems += 1
        else:
            opened.append(Played(demos))
        if demos is not None and verified:
            found = grouped(verify_demo_file(demos.path, demos.key_map))
            problems += verify(demos, found, num_replayed)
            stored += [f"{path}, {line}" for line in found]
        print()
    return Outcome(opened, problems, unreadable, stored if verified else None)


class Played:
    """A DemoFile for `tools.inspection.video`."""

    def __init__(self, demos: DemoFile) -> None:
        self.lengths = [demos.num_frames(demo) for demo in demos.demos]
        self.name, self.rate, self._demos = demos.path.name, rate_of(demos), demos

    def frame(self, number: int, t: int) -> tuple[dict[str, np.ndarray], str, str]:
        """See `Show`."""
        demo = self._demos.demos[number]
        views = {view: self._demos.frame(demo, t, view) for view in self._demos.views}
        return views, instruction_of(self._demos, demo), demo


def check_graphics() -> None:
    """BadInput where the environment asks for an OpenGL that cannot work. Without any, demos are not replayed."""
    from libs.robosuite_sim import SimulatorMissing, tell_gl

    with contextlib.suppress(SimulatorMissing):
        tell_gl()


def report(path: Path, given: KeyMap | None) -> DemoFile | None:
    """Print what is in a file and return it, None where it holds nothing to train on.

    given: its key map, None to find one. BadInput where it cannot be read or no map fits; then nothing is printed.
    """
    key_map = given or find_key_map(path)
    lines = [str(path), *key_lines(path, key_map, "given" if given else "fits")]
    try:
        demos = DemoFile(path, key_map)
        lines += summary(demos)
    except Unreadable:
        raise
    except BadInput as error:
        print("\n".join([*lines, row("unusable", error)]), flush=True)
        return None
    print("\n".join(lines), flush=True)
    return demos


def key_lines(path: Path, key_map: KeyMap, why: str) -> list[str]:
    """The key map of a file and what demos do not have as it says."""
    problems = key_problems(path, key_map)
    lines = [row("key map", f"{key_map.name} ({why}): {key_map.about}")]
    return [*lines, *(row("keys" if n == 0 else "", line) for n, line in enumerate(problems))]


def summary(demos: DemoFile) -> list[str]:
    """The lines that describe a file, but for its name and its key map."""
    lengths = [demos.num_frames(demo) for demo in demos.demos]
    rows = {
        "task": demos.attrs.get("bddl_file_name", "not stated"),
        "instruction": instruction_row(demos),
        "demos": len(lengths),
        "frames": lengths_text(lengths),
        **picture_rows(demos),
        "render": demos.render if "render" in demos.attrs else f"{demos.render} (not stated)",
    }
    actions = np.concatenate([demos.actions(demo) for demo in demos.demos])
    lines = [row(name, value) for name, value in rows.items()]
    proprio = read_proprio(demos)
    lines += proprio_lines(proprio)
    fixed = [constant(part, values, range(values.shape[1])) for part, values in proprio.items()]
    fixed.append(constant("actions", actions, names_of(actions.shape[1])))
    if any(fixed):
        lines.append(row("never change", "; ".join(filter(None, fixed))))
    return [*lines, *table(actions)]


def read_proprio(demos: DemoFile) -> dict[str, np.ndarray]:
    """{part: (frames, n)} of the parts that every demo has as its key map says."""
    found = {}
    for part in demos.key_map.proprio:
        with contextlib.suppress(BadInput):  # reported with the keys, or by --verify
            found[part] = np.concatenate([demos.proprio(demo, [part]) for demo in demos.demos])
    return found


def proprio_lines(proprio: dict[str, np.ndarray]) -> list[str]:
    """Range of every number of the parts."""
    lines, width = [], max(map(len, proprio), default=0)
    for part, values in proprio.items():
        for name, label in (("min", part), ("max", "")):
            numbers = "".join(f"{value:9.3f}" for value in getattr(values, name)(axis=0))
            lines.append(row("" if lines else "proprio", f"{label:{width}}  {name}{numbers}"))
    return lines


def constant(what: str, values: np.ndarray, names: Sequence[object]) -> str:
    """ "actions roll, pitch": the columns that never change, without names where all do not; "" if there is none."""
    still = is_constant(values.min(axis=0), values.max(axis=0))
    fixed = [str(name) for name, one in zip(names, still, strict=True) if one]
    return what if len(fixed) == values.shape[1] else f"{what} {', '.join(fixed)}" if fixed else ""


def picture_rows(demos: DemoFile) -> dict[str, str]:
    """The views with their sizes, how pictures are stored, and what a frame (all views) takes on disk."""
    with open_file(demos.path) as file:
        groups = [demos.group(file, demo) for demo in demos.demos]
        pictures = {view: [group[demos.key_map.views[view]] for group in groups] for view in demos.views}
        stored = sum(data.id.get_storage_size() for datasets in pictures.values() for data in datasets)
        found = {view: {demo: demos.picture_size(demo, view) for demo in demos.demos} for view in demos.views}
        plain = sum(3 * math.prod(size) * demos.num_frames(demo) for of in found.values() for demo, size in of.items())
        sizes = {view: sorted(set(of.values())) for view, of in found.items()}
        first = pictures[demos.views[0]][0]
        kind = f"{first.compression} {first.compression_opts or ''}".strip() if first.compression else "uncompressed"
        if first.compression == "unknown":  # to h5py, which knows four
            kind = " and ".join(filters_of(first).values())
        if len(first.shape) != 4:
            kind = f"encoded pictures, {kind}"
        chunks = f"chunks of {first.chunks[0]}" if first.chunks else "contiguous"
    frames = sum(demos.num_frames(demo) for demo in demos.demos)
    return {
        "views": ", ".join(
            f"{view} {' and '.join(f'{height} x {width}' for height, width in found)}" for view, found in sizes.items()
        ),
        "storage": (
            f"{kind}, {chunks}, {stored / frames / 1e3:.1f} kB per frame of {plain / frames / 1e3:.1f} kB, "
            f"file {demos.path.stat().st_size / 1e6:.1f} MB"
        ),
    }


def instruction_row(demos: DemoFile) -> str:
    if demos.demos_state:
        texts = list(dict.fromkeys(instruction_of(demos, demo) for demo in demos.demos))
        return texts[0] if len(texts) == 1 else f"{len(texts)}, stated by the demos: {texts[0]}; {texts[1]} ..."
    text = instruction_of(demos, demos.demos[0])
    if not text:
        return "not stated: set DATA.INSTRUCTION"
    if text == demos.key_map.instruction.text:
        return f"{text} (the key map's)"
    try:
        stated = demos.stated_instruction
    except BadInput:
        return f"{text} (by the file's name, nothing is stated)"
    return text if text == stated else f"{text} (LIBERO's, by the file's name; it states {stated!r})"


def instruction_of(demos: DemoFile, demo: str) -> str:
    """The language goal of a demo, "" where nothing states one."""
    try:
        return demos.instruction_of(demo)
    except BadInput:
        return ""


def verify(demos: DemoFile, stored: Sequence[str], num_replayed: int) -> int:
    """Print what is wrong with a file and how its first demos replay; the number of problems.

    stored: what is wrong with what stands in it, every value and picture.
    """
    hindrances, remarks = training_lines(demos)
    problems = [*stored, *hindrances]
    for line in remarks:
        print(row("remark", line))
    names = demos.demos[:num_replayed]
    problems += replay(demos, names)
    print(f"  {'verified':{LABEL_WIDTH}}" + (f"{len(problems)} problems" if problems else "no problems"))
    for problem in problems:
        print(f"    {problem}")
    return len(problems)


def training_lines(demos: DemoFile) -> tuple[list[str], list[str]]:
    """(what hinders training on a file, what should be known before): as a starting run says them."""
    hindrances = list(hdf5_checks.picture_problems([demos], demos.views))
    remarks = list(hdf5_checks.instruction_problems([demos]))  # no fault of the file's: a config may state one
    if remarks:
        demos = DemoFile(demos.path, demos.key_map, "none")
    rows = list(read_rows(demos, ()))
    main = demos.key_map.main_view
    copies = checks.copy_remarks(rows, lambda number: demos.frame(rows[number].name, 0, main))
    hindrances += [*checks.number_problems(rows), *checks.motion_problems(rows), *copies]
    remarks += [*hdf5_checks.text_remarks([demos]), *hdf5_checks.time_remarks([demos])]
    actions = np.concatenate([demo.actions for demo in rows])
    if np.isfinite(actions).all():
        low, high = actions.min(axis=0).tolist(), actions.max(axis=0).tolist()
        remarks += checks.constant_dims({"min": low, "max": high})
        remarks += checks.range_remarks(rows, low, high, checks.USUAL_BINS)
    where = f"{demos.path}, "
    return [line.removeprefix(where) for line in hindrances], remarks


def replay(demos: DemoFile, names: list[str]) -> list[str]:
    """Replay demos in the simulator, where there is one, and print how they compare; the problems."""
    from libs.libero_sim.replay import recorded_task, replay_demos
    from libs.robosuite_sim import SimulatorMissing

    label, problems = f"  {'replay':{LABEL_WIDTH}}", []
    if demos.key_map != LIBERO:
        print(f"{label}not replayed: not LIBERO's simulator")
        return []
    try:
        demos.states(names[0]), demos.robot_states(names[0])
        task = recorded_task(demos)
    except BadInput as error:  # no such task, no simulator
        print(f"{label}not replayed: {error}")
        return []
    try:
        for name, result in replay_demos(demos, task, names):
            pictures = ", ".join(
                f"{view} {result.picture_max[view]} (mean of a picture {result.picture_mean[view]:.2f})"
                for view in result.picture_max
            )
            outcome = "success" if result.success else "no success"
            print(f"{label}{name}, {result.num_frames} states; largest differences:")
            indent = " " * len(label)
            if result.seed is None:
                print(f"{indent}the file states no reset seed: fixtures may stand up to 13 mm elsewhere")
            print(f"{indent}pictures (0-255): {pictures}")
            print(f"{indent}robot_states: {result.robot_state_max:.2g}")
            print(
                f"{indent}actions from the first state: {outcome} after {result.steps} of {result.num_frames}, "
                f"states on the way: {result.state_max:.2g}",
                flush=True,
            )
            problems += [f"{name}: {problem}" for problem in result.problems()]
    except SimulatorMissing as error:
        print(f"{label}not replayed: {error}")
    except BadInput as error:
        problems.append(f"{names[0]}: cannot be replayed: {error}")
    return problems


def grouped(problems: list[str]) -> list[str]:
    """ "demo_0: X", "demo_1: X" -> "demo_0 and 1 more: X", in the order in which they first come."""
    places = {}
    for problem in problems:
        place, text = problem.split(": ", 1)
        places.setdefault(text, []).append(place)
    return [
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {text}" for text, where in places.items()
    ]
