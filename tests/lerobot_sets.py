"""LeRobot sets for tests: samples that LeRobot itself wrote (tests/data/lerobot), and changed copies of them."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from libs.lerobot_data import EpisodeFrames, SetSpec, SetWriter, write_episode

FOLDER = Path(__file__).parent / "data/lerobot"
SAMPLES = [
    "v21/so_like",
    "v21/libero_pi_image",
    "v30/so_like",
    "v30/so_like_h264",
    "v30/libero_pi_image",
    "v30/libero_hf_video",
    "v30_converted/so_like",
]
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def expected(name) -> dict:
    """What LeRobot's own reader returns of a sample, see tests/data/lerobot/README.md."""
    return json.loads((FOLDER / f"{name}.expected.json").read_text())


def expected_pictures(name) -> dict:
    """{(index, camera): (H, W, 3) uint8} that it returns."""
    with np.load(FOLDER / f"{name}.expected.npz") as found:
        return {(int(key.split("/", 1)[0]), key.split("/", 1)[1]): found[key] for key in found.files}


def copied(name, tmp_path) -> Path:
    """A copy of a sample that may be changed."""
    return Path(shutil.copytree(FOLDER / name, tmp_path / "set"))


@contextlib.contextmanager
def edited_info(root):
    """meta/info.json of a copy, as a dict that is written back."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    yield info
    path.write_text(json.dumps(info))


def edit_column(path, name, change):
    """Write a parquet file anew with `change(list of values)` as a column; change None: without it."""
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    kind = table.schema.field(name).type
    table = table.remove_column(place)
    if change is not None:
        values = change(pq.read_table(path).column(name).to_pylist())
        table = table.add_column(place, name, pa.array(values, type=kind))
    pq.write_table(table, path)


def stripes(number, size, length):
    """`length` pictures (H, W, 3) uint8 in which a bright bar moves: another one for each `number`."""
    height, width = size
    for frame in range(length):
        picture = np.full((height, width, 3), (40, 30 + 10 * number, 60), dtype=np.uint8)
        left = (3 * frame + 7 * number) % (width - 8)
        picture[:, left : left + 8] = (200, 180, 20 * (number % 10))
        yield picture


def made_frames(number, length, size, instructions=None):
    """An EpisodeFrames of two cameras, `a` of that size and `b` a square; actions tell episode and frame."""
    frames = np.arange(length)
    vectors = {
        "observation.state": np.stack([frames + 100 * number, -frames], axis=1).astype(np.float32),
        "action": np.stack([np.sin(frames), np.cos(frames + number), frames / 10], axis=1).astype(np.float32),
    }
    pictures = {"a": stripes(number, size, length), "b": stripes(number + 5, (size[0], size[0]), length)}
    return EpisodeFrames(instructions or [f"task {number % 2}"], vectors, pictures)


def made_spec(pictures="png", fps=20, size=(16, 24), source="made"):
    """The SetSpec of `made_frames`."""
    cameras = {"a": size, "b": (size[0], size[0])}
    vectors = {"observation.state": ("up", "down"), "action": ("x", "y", "z")}
    return SetSpec(fps=fps, robot="arm", cameras=cameras, vectors=vectors, pictures=pictures, source=source)


def write_made_set(out, lengths=(5, 9, 4), **spec):
    """A set of episodes of those lengths; returns its folder."""
    spec = made_spec(**spec)
    with SetWriter(out, spec, len(lengths)) as writer:
        for number in writer.missing():
            frames = made_frames(number, lengths[number], spec.cameras["a"])
            write_episode(writer.part(number), spec, number, frames)
        writer.finish()
    return out


def cut_off(path, share):
    """Leave the first part of a file."""
    os.truncate(path, int(os.path.getsize(path) * share))
