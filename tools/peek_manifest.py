"""Look at a manifest, this project's or somebody else's: print samples, check every line, picture and checksum.

    python tools/peek_manifest.py data/manifest --num_samples 3

Every line must be a sample of the same size, every picture must open, and where a folder of pictures has SHA256SUMS, be
what it says. Lines that cannot be used are listed with their numbers. Exit code: 0; 1 where there is a bad line or
another problem (with --skip_bad, which lists as well: where no line is good); 2 where there is nothing to read.
"""

import argparse
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from libs.action_text import ActionTextCodec
from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import named_path
from libs.manifest import BadLine, Rules, numbered_lines, read_line
from libs.manifest.lines import HIDDEN, INFO, SUMS, Line, manifest_file
from libs.manifest.pictures import decode_picture
from rv_train.data.manifest_stats import read_info
from rv_train.data.stats import action_range, read_stats

TOGETHER = 256  # lines that are checked at a time


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("manifest", metavar="MANIFEST_OR_FOLDER", help="manifest.jsonl, or the folder that it lies in")
    parser.add_argument("--num_samples", type=int, default=3, metavar="N", help="samples to print")
    parser.add_argument(
        "--skip_bad",
        action="store_true",
        help="end with exit code 0 though there are bad lines, which are listed all the same",
    )
    parser.add_argument("--num_bins", type=int, help=f"largest integer (default: as {INFO} says, else 1000)")
    parser.add_argument("--views", nargs="+", metavar="VIEW", help="cameras (default: those of the first line)")
    parser.add_argument(
        "--stats", metavar="FILE", help="range of the actions (default: the statistics beside the manifest)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads (default: one per core)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    for name, low in (("num_samples", 0), ("workers", 1), ("num_bins", 1)):
        if getattr(args, name) is not None and getattr(args, name) < low:
            raise BadInput(f"--{name} must be at least {low}, not {getattr(args, name)}")
    path = manifest_file(args.manifest)
    info = read_info(path.parent)
    rules = find_rules(path, info, args)
    codec = find_codec(path, rules, info.get("action_range", "min_max"), args)
    views = ", ".join(rules.views)
    print(f"{path}\n  {rules.horizon} x {rules.action_dim} integers from 0 to {rules.num_bins}, views {views}")
    count = check_lines(path, rules, codec, args)
    problems = check_files(path, info, count["lines"])
    for problem in problems:
        print(f"problem: {problem}")
    hidden = f", {count['hidden']:,} of them with hidden digits ({HIDDEN})" if count["hidden"] else ""
    print(
        f"{count['good']:,} good samples{hidden}, {count['bad']:,} bad lines, {count['pictures']:,} pictures, "
        f"{count['summed']:,} of them checked by SHA-256"
    )
    if count["good"] == 0 or ((problems or count["bad"]) and not args.skip_bad):
        raise SystemExit(1)


def find_rules(path: Path, info: Mapping[str, Any], args: argparse.Namespace) -> Rules:
    """What the lines have to fit: as the manifest's folder says, else as the first line that is JSON does."""
    first = next((found for _, _, raw in numbered_lines(path) if (found := _parsed(raw))), {})
    horizon, dim = info.get("horizon", first.get("H")), info.get("action_dim", first.get("D"))
    if not all(type(value) is int and value > 0 for value in (horizon, dim)):
        raise BadInput(f"{path}: no line says H and D, the size of a chunk of actions")
    views = args.views if args.views else info.get("views")
    if not views:
        paths = first.get("image_paths")
        views = list(paths) if isinstance(paths, dict) and paths else ["image"]
    return Rules(str(path.parent), tuple(views), horizon, dim, args.num_bins or info.get("num_bins", 1000))


def find_codec(path: Path, rules: Rules, choice: str, args: argparse.Namespace) -> ActionTextCodec | None:
    """ActionTextCodec of the manifest's statistics; None, and a remark, where there are none."""
    try:
        stats = read_stats(args.stats or path.parent)
    except BadInput as error:
        if args.stats:
            raise
        print(f"no statistics, so the integers cannot be read as actions: {error}")
        return None
    if len(stats["min"]) != rules.action_dim:
        raise BadInput(
            f"{args.stats or path.parent}: statistics of {len(stats['min'])} dimensions, not {rules.action_dim}"
        )
    return ActionTextCodec(*action_range(stats, choice), rules.num_bins)


def check_lines(path: Path, rules: Rules, codec: ActionTextCodec | None, args: argparse.Namespace) -> dict[str, int]:
    """Print the first samples and every bad line; returns {"lines", "good", "bad", "hidden", "pictures", "summed"}."""
    count = dict.fromkeys(("lines", "good", "bad", "hidden", "pictures", "summed"), 0)
    lines, side = numbered_lines(path), None  # side: of the first good line's main view, pixels
    with (
        ThreadPoolExecutor(args.workers) as pool,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, dynamic_ncols=True) as bar,
    ):
        while block := list(itertools.islice(lines, TOGETHER)):
            results = pool.map(lambda item: check_line(item[2], rules), block)
            for (number, offset, raw), (line, shapes, summed, error) in zip(block, results, strict=True):
                count["lines"] += 1
                bar.update(offset + len(raw) - bar.n)
                side = side or (shapes[0][0] if shapes else None)
                if line is not None and shapes[0][0] != side:
                    error = f"picture {line.pictures[0]} has {shapes[0][0]} pixels a side, the first one {side}"
                if line is None or error is not None:
                    count["bad"] += 1
                    bar.write(f"line {number}: {error}")
                    continue
                if count["good"] < args.num_samples:
                    bar.write("\n".join(describe(number, line, shapes, rules, codec)))
                count["good"] += 1
                count["hidden"] += HIDDEN in line.text
                count["pictures"] += len(shapes)
                count["summed"] += summed
    return count


def check_line(raw: bytes, rules: Rules) -> tuple[Line | None, list[tuple[int, ...]], int, str | None]:
    """(Line, shapes of its pictures, how many of them had a checksum, what is wrong or None)."""
    try:
        line = read_line(raw, rules)
        checks = [check_picture(path) for path in line.pictures]
    except BadLine as error:
        return None, [], 0, str(error)
    return line, [shape for shape, _ in checks], sum(summed for _, summed in checks), None


def check_picture(path: str) -> tuple[tuple[int, ...], bool]:
    """(shape, whether there was a checksum to compare with); BadLine where something is wrong."""
    try:
        with named_path(path):
            content = Path(path).read_bytes()
    except BadInput as error:
        raise BadLine(f"picture {error}") from None
    folder, name = os.path.split(path)
    sums = read_sums(folder)
    if sums is not None and sums.get(name) != hashlib.sha256(content).hexdigest():
        raise BadLine(f"picture {path} " + ("is not what was written" if name in sums else f"is not in {SUMS}"))
    picture = decode_picture(content)
    if picture is None:
        raise BadLine(f"picture {path} is damaged, or no picture")
    return picture.shape, sums is not None


@functools.lru_cache(maxsize=64)
def read_sums(folder: str) -> dict[str, str] | None:
    """{file name: SHA-256} of a folder's SHA256SUMS, None where it has none."""
    try:
        text = (Path(folder) / SUMS).read_text()
    except OSError:
        return None
    return {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}


def check_files(path: Path, info: Mapping[str, Any], num_lines: int) -> list[str]:
    """What is wrong with the files beside the manifest, and with its length."""
    problems = []
    if info.get("num_samples", num_lines) != num_lines:
        problems.append(f"{num_lines:,} lines, {INFO} says {info['num_samples']:,}")
    for name, digest in (read_sums(str(path.parent)) or {}).items():
        try:
            with open(path.parent / name, "rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError:
            same = False
        if not same:
            problems.append(f"{name} is not what was written beside {SUMS}")
    return problems


def describe(
    number: int, line: Line, shapes: Sequence[tuple[int, ...]], rules: Rules, codec: ActionTextCodec | None
) -> Iterator[str]:
    """The lines that show a sample."""
    place = ", ".join(str(part) for part in (line.file, line.demo, line.frame) if part is not None)
    yield f"line {number}" + (f": {place}" if place else "")
    yield f"  instruction  {line.instruction}"
    for view, path, shape in zip(rules.views, line.pictures, shapes, strict=True):
        yield f"  {view:<12} {' x '.join(map(str, shape))}  {path}"
    yield f"  text         {line.text}"
    if codec:
        numbers = line.numbers[: rules.action_dim]
        values = codec.from_integers([value or 0 for value in numbers])
        shown = [HIDDEN if n is None else f"{value:.3f}" for n, value in zip(numbers, values, strict=True)]
        yield f"  first action {' '.join(shown)}"


def _parsed(raw):
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


if __name__ == "__main__":
    main()
