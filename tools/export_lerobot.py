"""Demonstration files (HDF5) -> a LeRobot data set of v3.0, which LeRobot itself and everything built on it opens.

    python tools/export_lerobot.py data/quickstart --out data/quickstart_lerobot --fps 20 --workers 4

Every demo becomes an episode, files and demos in the order in which training reads them. Its pictures (upright) are
`observation.images.<view>`, its actions `action`, the chosen parts of the robot's state, one after another,
`observation.state`, its instruction the task. Actions and states are rounded to float32, as training reads them.
Lists of demos to train on and to hold out (mask/train, mask/valid) have no place in a LeRobot set and are left out.

--pictures png keeps every value, in the rows; h264 and av1 are videos, a tenth of the size and not the same pixels.

The same command continues after an interruption; the set depends neither on interruptions nor on the number of
processes. Exit code: 0; 2 for bad input.
"""

import argparse
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from libs.cli import Parser, cli_errors
from libs.demo_hdf5 import DemoFile, KeyMap, demo_files
from libs.demo_hdf5.layout import find_key_map
from libs.errors import BadInput
from libs.files import check_new_folder
from libs.jobs import run_jobs
from libs.lerobot_data import is_set

if TYPE_CHECKING:
    from libs.lerobot_data.episode_files import SetSpec


# As the published LIBERO sets of LeRobot have it: position and axis-angle of the hand, and the gripper.
STATES = {"libero": ("ee_states", "gripper_states")}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE_OR_FOLDER", help="HDF5 files, or folders of them")
    parser.add_argument("--out", required=True, type=Path, help="folder of the data set")
    parser.add_argument(
        "--key_map", metavar="NAME_OR_PATH", help="layout of the files (default: the one that fits the first)"
    )
    parser.add_argument("--views", nargs="+", metavar="VIEW", help="cameras (default: all that the files have)")
    parser.add_argument(
        "--proprio",
        nargs="*",
        metavar="PART",
        help=f"parts of the robot's state (default: libero: {' '.join(STATES['libero'])}; others: all of the key map)",
    )
    parser.add_argument(
        "--instruction", default="", metavar="TEXT", help="of every demo (default: what the files state)"
    )
    parser.add_argument("--fps", type=float, help="frames a second (default: what the files state)")
    parser.add_argument(
        "--robot_type",
        default="",
        metavar="NAME",
        help="the set says that it is of this robot (default: as the files state)",
    )
    parser.add_argument("--pictures", default="png", metavar="KIND", help="png loses nothing; h264, av1: videos")
    parser.add_argument("--workers", type=int, default=1, help="processes, a core each")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    from libs.lerobot_data import SetWriter  # of the extra [lerobot]

    args = parse_args(argv)
    if args.workers < 1:
        raise BadInput(f"--workers must be at least 1, not {args.workers}")
    check_new_folder(args.out)
    paths = demo_files(*args.files)
    key_map = KeyMap.find(args.key_map) if args.key_map else find_key_map(paths[0])
    files = [DemoFile(path, key_map, args.instruction) for path in paths]
    spec, demos, parts = plan_set(files, key_map, args)
    frames = sum(file.num_frames(demo) for file, demo in demos)
    if is_set(args.out):
        raise BadInput(f"{args.out} is a data set already: choose another --out")
    with SetWriter(args.out, spec, len(demos)) as writer:
        jobs = [(number, writer.part(number), *demos[number]) for number in writer.missing()]
        done = frames - sum(file.num_frames(demo) for _, _, file, demo in jobs)
        with tqdm(total=frames, initial=done, unit="frame", smoothing=0, dynamic_ncols=True) as bar:
            try:
                export = functools.partial(export_demo, spec, parts)
                run_jobs(export, jobs, args.workers, lambda job: bar.update(job[2].num_frames(job[3])), args.out)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("the same command continues") from None
        writer.finish()
    cameras = ", ".join(f"{name} {height} x {width}" for name, (height, width) in spec.cameras.items())
    print(f"{args.out}  {len(demos)} episodes, {frames:,} frames, {spec.fps:g} fps, {cameras} as {spec.pictures}")


def plan_set(
    files: Sequence[DemoFile], key_map: KeyMap, args: argparse.Namespace
) -> "tuple[SetSpec, list[tuple[DemoFile, str]], list[str]]":
    """(SetSpec, [(DemoFile, demo)] in order, parts of the state); BadInput where the files do not make one set."""
    from libs.lerobot_data import SetSpec

    views = args.views or [view for view in key_map.views if all(view in file.views for file in files)]
    key_map.check_views(views)
    parts = list(key_map.proprio if args.proprio is None else args.proprio)
    if args.proprio is None and key_map.name in STATES:
        parts = list(STATES[key_map.name])
    demos = [(file, demo) for file in files for demo in file.demos]
    cameras = {view: _same(f"pictures of {view}", _sizes(demos, view)) for view in views}
    fps = args.fps or _same("frames a second", [(file.path, stated_rate(file)) for file in files])
    if not (fps and math.isfinite(fps) and fps > 0):
        raise BadInput(f"{files[0].path} does not state how many frames a second it has: --fps")
    vectors = {"action": tuple(f"action_{n}" for n in range(key_map.actions.dim))}
    if parts:
        names = tuple(f"{part}_{n}" for part in parts for n in range(key_map.dim([part])))
        vectors = {"observation.state": names, **vectors}
    spec = SetSpec(
        fps=fps,
        robot=args.robot_type or stated_robot(files[0]),
        cameras={f"observation.images.{view}": size for view, size in cameras.items()},
        vectors=vectors,
        pictures=args.pictures,
        source=_source(files, key_map, views, parts),
    )
    return spec, demos, parts


def export_demo(spec: "SetSpec", parts: Sequence[str], job: tuple[int, Path, DemoFile, str]) -> None:
    """One job: (number, folder of the part, DemoFile, demo)."""
    from libs.lerobot_data import EpisodeFrames, write_episode

    number, folder, file, demo = job
    vectors = {"action": file.actions(demo)}
    if parts:
        vectors["observation.state"] = file.proprio(demo, parts)
    pictures = {name: _frames(file, demo, name.rpartition("observation.images.")[2]) for name in spec.cameras}
    try:
        write_episode(folder, spec, number, EpisodeFrames([file.instruction_of(demo)], vectors, pictures))
    except BadInput as error:
        raise BadInput(f"{file.path}, {demo}: {error}") from None


def stated_rate(file: DemoFile) -> float | None:
    """Frames a second that a file's env_args state (robosuite's control_freq), None where they do not."""
    rate = _env_kwargs(file).get("control_freq")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def stated_robot(file: DemoFile) -> str:
    """The robot that a file's env_args state, "" where they do not."""
    robots = _env_kwargs(file).get("robots")
    name = robots[0] if isinstance(robots, list) and robots else robots
    return name.lower() if isinstance(name, str) else ""


def _env_kwargs(file):
    try:
        args = json.loads(file.attrs.get("env_args", "{}"))
    except (TypeError, ValueError):
        return {}
    found = args.get("env_kwargs") if isinstance(args, dict) else None
    return found if isinstance(found, dict) else {}


def _frames(file, demo, view):
    return (file.frame(demo, frame, view) for frame in range(file.num_frames(demo)))


def _sizes(demos, view):
    for file, demo in demos:
        if view not in file.views:
            raise BadInput(f"{file.path} has no view {view}; it has {', '.join(file.views)}")
        yield f"{file.path}, {demo}", tuple(map(int, file.picture_size(demo, view)))


def _same(what, values):
    """What (where, value) pairs have in common; BadInput where they differ."""
    (first_where, first), *others = values
    for where, value in others:
        if value != first:
            raise BadInput(f"{what}: {first} in {first_where}, {value} in {where}: a data set needs one")
    return first


def _source(files, key_map, views, parts):
    """What the set is made from, as a digest: files by size and name, and what is read of them."""
    facts = [key_map.layout(views, parts)]
    for file in files:
        goals = [file.instruction_of(demo) for demo in file.demos]
        facts.append([file.path.name, file.path.stat().st_size, goals, file.demos])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    main()
