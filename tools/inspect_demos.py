"""Say what is in demonstrations, check them, and play them as a video or on a page.

    python tools/inspect_demos.py data/quickstart --verify
    python tools/inspect_demos.py data/quickstart --video demos.mp4 --num_demos 3
    python tools/inspect_demos.py data/stack --key_map isaac_cosmos --report demos.html

HDF5 files are looked at one by one. Where a file keeps what, a key map says (DATA.KEY_MAP): of those that come with
this project the one that fits is found, and every key of it that demos lack or have in another form is reported. Data
of any other kind (DATA.SOURCE) is described as a run would read it, with the pairs KEY VALUE that name it, a LeRobot
set (a folder, or with --source lerobot a name of the hub) with what is wrong with it. --report writes one page that
loads nothing: pictures with a slider, curves, the integers that actions become, their range, what is odd.
Exit code: 0, 1 where --verify finds a problem or a file has no actions or pictures to train on, 2 where one cannot be
read or no map fits (the others are reported).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from libs.cli import Parser, cli_errors
from libs.demo_hdf5 import demo_files
from libs.demo_hdf5.layout import find_key_map
from libs.errors import BadInput
from libs.files import check_new_file
from rv_train.data.load import open_data
from rv_train.data.sources import find_source, source_that_fits
from tools.data_options import add_data_options, chosen_data
from tools.inspection import anything, hdf5
from tools.inspection.report import write_report
from tools.inspection.video import write_video

if TYPE_CHECKING:
    from tools.inspection.text import Outcome


# Kinds of data that have an inspection of their own; every other one is told by what the contract of a data set says.
OWN = {
    "hdf5": lambda args, files: hdf5.inspect(files, args.key_map, args.verify, args.num_demos or 1),
    "lerobot": lambda args, files: lerobot_inspection().inspect(args, files, args.verify),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add_data_options(parser, proprio=False, default_map="the one that fits")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check every value and picture; LIBERO's demos are played again in the simulator",
    )
    parser.add_argument("--video", type=Path, metavar="OUT.mp4", help="play the demos one after another")
    parser.add_argument("--report", type=Path, metavar="OUT.html", help="a page to look at them, see above")
    parser.add_argument(
        "--num_demos",
        type=int,
        metavar="N",
        help="how many the video plays of each file (default: all), --verify replays (1), the page shows in all (8)",
    )
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.num_demos is not None and args.num_demos < 1:
        raise BadInput(f"--num_demos must be at least 1, not {args.num_demos}")
    if args.video is not None and args.video.suffix != ".mp4":
        raise BadInput(f"--video {args.video} must end in .mp4")
    if args.report is not None and args.report.suffix != ".html":
        raise BadInput(f"--report {args.report} must end in .html")
    for path in filter(None, (args.video, args.report)):
        check_new_file(path)
    entries_of = {}
    for entry in args.files:
        entries_of.setdefault(args.source or source_that_fits([entry]), []).append(entry)
    if args.report is not None and len(entries_of) > 1:
        raise BadInput(f"--report shows one kind of data, these are {len(entries_of)}: {', '.join(entries_of)}")
    found = [inspect(args, source, entries) for source, entries in entries_of.items()]
    shows = [show for one in found for show in one.shows]
    if args.video is not None and shows:
        frames = write_video(args.video, shows, args.num_demos)
        print(f"{args.video}  {frames} frames")
    if args.report is not None and not any(one.unreadable for one in found):
        print(f"{args.report}  {write_page(args, next(iter(entries_of)), found[0].pictures) / 1e6:.1f} MB")
    if any(one.problems or one.unreadable for one in found):
        raise SystemExit(2 if any(one.unreadable for one in found) else 1)


def write_page(args: argparse.Namespace, source: str, pictures: list[str] | None) -> int:
    """Write --report of data of one kind, with its whole state; its size in bytes.

    pictures: what is wrong with them, None where they were not all read.
    """
    chosen = argparse.Namespace(**{**vars(args), "source": source})
    if source == "hdf5" and not chosen.key_map:  # the one that was found to fit, as in what was printed
        chosen.key_map = find_key_map(demo_files(*args.files)[0]).name
    facts = find_source(source).look(chosen_data(chosen))
    chosen.proprio = list(facts.proprio)
    data = open_data(chosen_data(chosen))
    if pictures is None:
        pictures = anything.picture_problems(data)
    return write_report(args.report, data, args.files, *anything.findings(data, pictures), args.num_demos)


def lerobot_inspection() -> ModuleType:
    """The module, which needs the extra [lerobot]."""
    from tools.inspection import lerobot

    return lerobot


def inspect(args: argparse.Namespace, source: str, entries: Sequence[Path]) -> "Outcome":
    """Print what is in some files and folders of one kind; the Outcome."""
    if source in OWN:
        return OWN[source](args, entries)
    return anything.inspect(argparse.Namespace(**{**vars(args), "source": source, "files": entries}), args.verify)


if __name__ == "__main__":
    main()
