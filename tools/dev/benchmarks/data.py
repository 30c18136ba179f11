"""Reading samples (two pictures, a chunk of actions) in random order: ways to store them, and who reads them.

storage   the demonstrations of --data stored in every way: bytes, milliseconds to write a frame, samples per second and
          core from memory (warm) and from the disk (cold: the page cache is told to forget the file; a disk that a
          host machine caches stays warm there).
readers   files packed as this project packs them and not packed at all, read by this code, by h5py sample by sample,
          and by robomimic's SequenceDataset where it can be imported, each under a DataLoader without processes of its
          own: samples per second and core. robomimic reads as many frames as actions; "1 step" decodes what the others
          do and has one action, "8 steps" has them all. Last, all of this code's loader work.

robomimic 0.3.0 without its dependencies is enough:
    pip install --no-deps --target FOLDER robomimic==0.3.0; PYTHONPATH=FOLDER python tools/dev/benchmark.py data ...

Of a LeRobot set (--data FOLDER) it is measured instead how fast it is read: with and without the frame cache, and by
LeRobot's own loader, by every decoder that it finds. LeRobot cannot be installed beside this project: --lerobot_python
names the Python of an environment that has it (LEROBOT_PYTHONPATH: what is put on its path).
"""

import argparse
import importlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from libs.errors import BadInput
from libs.files import make_folder
from libs.lerobot_data import is_set

CONFIG = Path(__file__).resolve().parents[3] / "configs/vla0.yaml"
BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        help="demo file (of a folder: the first), whose frames are stored in every way; or a LeRobot set",
    )
    add("--num_samples", type=int, default=200, help="read from each file and by each reader in a round")
    add("--rounds", type=int, default=5, help="turns that are timed")
    add("--lerobot_python", metavar="PYTHON", help="an interpreter that has LeRobot, for --data of a LeRobot set")
    add(
        "--folder", type=Path, help="where the files are written, on the disk to be measured (default: a temporary one)"
    )


def measure(args: argparse.Namespace, report: Callable[[str], None]) -> dict:
    """Run the benchmark; report(line) tells what is going on.

    Returns {"settings", "frames", "storage": {name: ...}, "readers": {file: {reader: ...}}, "robomimic": its version or
    why not, "problems"}. BadInput: bad arguments.
    """
    for name in ("num_samples", "rounds"):
        if getattr(args, name) < 1:
            raise BadInput(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.folder:
        make_folder(args.folder)
    if is_set(args.data):
        from tools.dev.benchmarks import lerobot_sets

        return lerobot_sets.measure(args.data, args.lerobot_python, args.num_samples, args.rounds, args.folder, report)
    import torch

    from libs.demo_hdf5 import demo_files
    from rv_train.config import load_cfg
    from rv_train.data.hdf5 import DemoDataset
    from tools.dev.benchmarks.storages import PACKED, STORAGES, UNPACKED

    torch.set_num_threads(1)
    cfg, args.data = load_cfg(CONFIG), demo_files(args.data)[0]
    dataset = DemoDataset([args.data], cfg.DATA.VIEWS, cfg.ACTION.HORIZON)
    keys = [dataset.key_map.views[view] for view in dataset.views]
    order = np.random.default_rng(0).integers(0, len(dataset), args.num_samples).tolist()
    frames = [(rows.name, frame) for rows in dataset.demos for frame in range(len(rows.actions))]
    places = [frames[index] for index in order]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths, storage, problems = {}, {}, []
        for number, kind in enumerate(STORAGES):
            paths[kind] = Path(folder) / f"{number}.hdf5"
            cpu = time.process_time()
            kind.write(args.data, paths[kind], keys)
            write_s = time.process_time() - cpu
            numbers, same = _read_storage(kind, paths[kind], keys, places, args.rounds, dataset, order)
            num_frames = len(dataset) * len(keys)
            storage[kind.name] = {
                "bytes_per_frame": paths[kind].stat().st_size / num_frames,
                "write_ms_per_frame": 1e3 * write_s / num_frames,
                **numbers,
            }
            if not same and kind.encoded != ".jpg":
                problems.append(f"{kind.name}: other pictures than those that were stored")
            report(f"{kind.name}: {numbers['warm_per_s']['median']:.0f} samples/s warm")
        readers = {}
        for kind in (PACKED, UNPACKED):
            readers[kind.name], wrong = _compare_readers(cfg, paths[kind], order, args.rounds, report)
            problems += [f"{kind.name}: {reader} reads something else" for reader in wrong]
    settings = {"data": str(args.data), "samples": args.num_samples, "rounds": args.rounds}
    side, _ = dataset.facts.cameras[dataset.views[0]] or (0, 0)
    return {
        "settings": settings,
        "frames": {"number": len(dataset), "views": len(keys), "resolution": side},
        "storage": storage,
        "readers": readers,
        "robomimic": _robomimic_version(),
        "problems": problems,
    }


# ------------------------------------------------------------------------------------------------ storage


def _read_storage(kind, path, keys, places, rounds, dataset, order):
    """({"warm_per_s", "cold_per_s": spreads}, whether the pictures are those of the dataset)"""
    import h5py

    from tools.dev.benchmarks.samples import spread

    def read(file, demo, t):
        pictures = [kind.read(file, f"data/{demo}/{key}", t) for key in keys]
        return pictures, file[f"data/{demo}/{dataset.key_map.actions.key}"][t : t + dataset.horizon]

    warm, cold = [], []
    for _ in range(rounds):
        forget(path)
        with h5py.File(path, "r") as file:
            start = time.perf_counter()
            for demo, t in places:
                read(file, demo, t)
            cold.append(len(places) / (time.perf_counter() - start))
        with h5py.File(path, "r") as file:
            start = time.process_time()
            for demo, t in places:
                read(file, demo, t)
            warm.append(len(places) / (time.process_time() - start))
    with h5py.File(path, "r") as file:
        same = all(
            all(np.array_equal(a[::-1, ::-1], b) for a, b in zip(read(file, *place)[0], dataset[i].views, strict=True))
            for place, i in list(zip(places, order, strict=True))[:5]
        )
    return {"warm_per_s": spread(warm), "cold_per_s": spread(cold)}, same


def forget(path: Path | str) -> None:
    """Have the operating system drop what it keeps of a file in memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # what is not yet written cannot be dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------ readers


def _compare_readers(cfg, path, order, rounds, report):
    """({reader: {"per_s": spread, "ours_faster_by"}}, readers that do not read the same)"""
    from torch.utils.data import DataLoader

    from tools.dev.benchmarks.readers import build_readers, same_sample
    from tools.dev.benchmarks.samples import rotated, spread

    readers = build_readers(cfg, path)
    times = {name: [] for name in readers}
    for number in range(rounds):
        for name in rotated(list(readers), number):
            reader = readers[name]
            keys = [reader.key(index) for index in order]
            loader = DataLoader(reader.dataset, batch_size=BATCH, sampler=keys, collate_fn=reader.collate)
            start = time.process_time()
            for _ in loader:
                pass
            times[name].append(time.process_time() - start)
    summary = {}
    for name, taken in times.items():
        ratios = [theirs / mine for theirs, mine in zip(taken, times["this code"], strict=True)]
        summary[name] = {
            "per_s": spread([len(order) / seconds for seconds in taken]),
            "ours_faster_by": statistics.median(ratios),
        }
        report(f"{path.stem}: {name}: {summary[name]['per_s']['median']:.0f} samples/s")
    return summary, [
        name for name, reader in readers.items() if not same_sample(reader, readers["this code"], order[0])
    ]


def _robomimic_version() -> str:
    if importlib.util.find_spec("robomimic") is None:
        return "not installed"
    return importlib.import_module("robomimic").__version__


def table(result: Mapping[str, Any]) -> str:
    """The summary as text."""
    if "loaders" in result:
        from tools.dev.benchmarks import lerobot_sets

        return lerobot_sets.table(result)
    from tools.dev.benchmarks.samples import columns, with_quartiles

    frames = result["frames"]
    side = frames["resolution"]
    rows: list[tuple[str, ...]] = [
        (f"samples of {frames['views']} x {side}x{side}", "KiB/frame", "write ms", "warm /s/core", "cold /s")
    ]
    for name, numbers in result["storage"].items():
        sizes = f"{numbers['bytes_per_frame'] / 1024:.1f}", f"{numbers['write_ms_per_frame']:.2f}"
        rows.append((name, *sizes, *(with_quartiles(numbers[key], 0) for key in ("warm_per_s", "cold_per_s"))))
    lines = [columns(rows), ""]
    for file, readers in result["readers"].items():
        rows = [(file, "samples /s/core", "this code is faster by")]
        for name, numbers in readers.items():
            rows.append((name, with_quartiles(numbers["per_s"], 0), f"{numbers['ours_faster_by']:.2f}x"))
        lines += [columns(rows), ""]
    if result["robomimic"] == "not installed":
        lines.append("robomimic is not installed, so it is not among the readers: see --help")
    return "\n".join(lines)
