"""Writing a LeRobot data set of v3.0: episode by episode, in any number of processes, restartable.

<out>/.parts/000012/      while it is written: an episode (`libs.lerobot_data.episode_files`)
<out>/data, videos, meta  in the end, out of the episodes in their order; meta/info.json comes last, and with it the
                          folder is a data set
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from libs.errors import BadInput
from libs.files import kind_of, make_folder, named_path, read_json_object, write_whole
from libs.jobs import held_folder
from libs.lerobot_data.episode_files import EPISODE, ROWS, SetSpec
from libs.lerobot_data.marks import INFO
from libs.lerobot_data.parquet import as_numbers
from libs.lerobot_data.statistics import number_stats, picture_stats

PARTS, SETTINGS = ".parts", "settings.json"
CHUNK = 1000  # files in a folder
DATA_MB, VIDEO_MB = 100, 200  # at most in a file, but for one episode that is larger
INDICES = ("frame_index", "episode_index", "index", "task_index")
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


class SetWriter:
    """A set in the making; a context manager that holds its folder, so that no other process writes there.

    `write_episode(writer.part(number), ...)` makes an episode, in whatever process; `finish` the set.

    Raises:
        BadInput: another process writes there, what was begun is of another `SetSpec`, or the folder holds other
            things.
    """

    def __init__(self, out: Path | str, spec: SetSpec, num_episodes: int) -> None:
        spec.check()
        self.out, self.spec, self.num_episodes = Path(out), spec, num_episodes

    def __enter__(self) -> "SetWriter":
        parts = make_folder(self.out) / PARTS
        with named_path(self.out, "written"):
            if not parts.exists() and any(self.out.iterdir()):
                raise BadInput(f"{self.out} is not empty, and nothing that this tool began: choose another folder")
        self._held = held_folder(parts, f"{self.out} is in use: another process writes a data set there")
        self._held.__enter__()
        settings = json.loads(json.dumps({**asdict(self.spec), "episodes": self.num_episodes}))
        if kind_of(parts / SETTINGS):
            found = read_json_object(parts / SETTINGS)
            different = [
                f"{key} {found.get(key)!r}, not {settings[key]!r}"
                for key in settings
                if found.get(key) != settings[key]
            ]
            if different:
                raise BadInput(f"{self.out} holds a set that was begun with {different[0]}: choose another folder")
        else:
            write_whole(parts / SETTINGS, json.dumps(settings).encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def part(self, number: int) -> Path:
        """The folder of an episode while the set is written."""
        return self.out / PARTS / f"{number:06d}"

    def missing(self) -> list[int]:
        """The episodes that are not written."""
        return [number for number in range(self.num_episodes) if not self.part(number).is_dir()]

    def finish(self) -> None:
        """Join the episodes. All of them must have been written."""
        assert not self.missing()
        for name in ("data", "videos", "meta"):  # of a kill on the way
            shutil.rmtree(self.out / name, ignore_errors=True)
        abouts = [read_json_object(self.part(number) / EPISODE) for number in range(self.num_episodes)]
        texts = list(dict.fromkeys(text for about in abouts for text in about["tasks"]))
        rows, numbers = self._join_rows(abouts, {text: number for number, text in enumerate(texts)})
        for camera in self.spec.cameras if self.spec.pictures != "png" else ():
            self._join_videos(camera, rows)
        _write_table(self.out / "meta/tasks.parquet", _tasks_table(texts))
        for row, about in zip(rows, abouts, strict=True):
            row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
            for feature, stats in self._stats([about], numbers[row["episode_index"]]).items():
                row |= {f"stats/{feature}/{name}": value for name, value in stats.items()}
        _write_table(self.out / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
        joined = {name: np.concatenate([found[name] for found in numbers]) for name in numbers[0]}
        write_whole(self.out / "meta/stats.json", json.dumps(self._stats(abouts, joined), indent=4).encode())
        write_whole(self.out / INFO, json.dumps(self._info(abouts, texts), indent=4).encode())
        shutil.rmtree(self.out / PARTS)

    def _join_rows(self, abouts, task_numbers):
        """Write the data files; (a row of the table of episodes for each, {feature: its numbers} of each)."""
        rows, numbers, begin = [], [], 0
        with _FilesInTurn(self.out, DATA_PATH, DATA_MB) as files:
            for number, about in enumerate(abouts):
                table = pq.read_table(self.part(number) / ROWS)
                count = about["length"]
                tasks = np.array([task_numbers[text] for text in about["tasks"]])[table.column("task").to_numpy()]
                index = np.arange(begin, begin + count)
                added = {"episode_index": np.full(count, number), "index": index, "task_index": tasks}
                table = table.drop_columns(["task"])
                for name, values in added.items():
                    table = table.append_column(name, pa.array(values))
                if files.next_needed((self.part(number) / ROWS).stat().st_size):
                    schema = table.schema.with_metadata({b"huggingface": self._huggingface().encode()})
                    files.begin(lambda path, schema=schema: pq.ParquetWriter(path, schema))
                files.current.write_table(table.cast(schema))  # a row group for each episode
                place = {"data/chunk_index": files.chunk, "data/file_index": files.number}
                span = {"dataset_from_index": begin, "dataset_to_index": begin + count}
                rows.append({"episode_index": number, "tasks": about["tasks"], "length": count, **place, **span})
                numbers.append({name: as_numbers(table.column(name), dim, name) for name, dim in self._dims().items()})
                begin += count
        return rows, numbers

    def _join_videos(self, camera, rows):
        """Write the video files of a camera: the episodes' one after another, nothing is encoded again."""
        key, path = f"videos/{camera}", VIDEO_PATH.replace("{video_key}", camera)
        frames = 0  # in the file so far
        with _FilesInTurn(self.out, path, VIDEO_MB) as files:
            for row in rows:
                part = self.part(row["episode_index"]) / f"{camera}.mp4"
                with av.open(str(part)) as source:
                    stream = source.streams.video[0]
                    if files.next_needed(part.stat().st_size):
                        files.begin(lambda path: av.open(str(path), "w"))
                        # opaque: as it is, whether or not there is an encoder of the decoder's name
                        target, frames = files.current.add_stream_from_template(stream, opaque=True), 0
                    _append(source, stream, files.current, target, frames / self.spec.rate)
                begin, frames = frames, frames + row["length"]
                row |= {f"{key}/chunk_index": files.chunk, f"{key}/file_index": files.number}
                row[f"{key}/from_timestamp"] = float(begin / self.spec.rate)
                row[f"{key}/to_timestamp"] = float(frames / self.spec.rate)

    def _stats(self, abouts, numbers):
        found = {}
        for camera in self.spec.cameras:
            counts = np.sum([np.array(about["histograms"][camera]) for about in abouts], axis=0)
            found[camera] = picture_stats(counts, sum(about["length"] for about in abouts))
        return found | {name: number_stats(values) for name, values in numbers.items()}

    def _dims(self):
        """{feature: how many numbers it has in a row}"""
        return {name: len(names) for name, names in self.spec.vectors.items()} | dict.fromkeys(
            ("timestamp", *INDICES), 1
        )

    def _features(self):
        kind = "image" if self.spec.pictures == "png" else "video"
        features: dict[str, dict[str, Any]] = {}
        for name, (height, width) in self.spec.cameras.items():
            features[name] = {"dtype": kind, "shape": [height, width, 3], "names": ["height", "width", "channels"]}
            if kind == "video":
                features[name]["info"] = {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": self.spec.pictures,
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": _whole(self.spec.fps),
                    "video.channels": 3,
                    "has_audio": False,
                }
        for name, names in self.spec.vectors.items():
            features[name] = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        return features | {name: {"dtype": "int64", "shape": [1], "names": None} for name in INDICES}

    def _huggingface(self):
        """The types of the columns, as the package `datasets` notes them in each file."""
        kinds: dict[str, dict[str, Any]] = {}
        for name, feature in self._features().items():
            value = {"dtype": feature["dtype"], "_type": "Value"}
            if feature["dtype"] == "image":
                kinds[name] = {"_type": "Image"}
            elif name in self.spec.vectors:
                kinds[name] = {"feature": value, "length": feature["shape"][0], "_type": "List"}
            elif feature["dtype"] != "video":
                kinds[name] = value
        return json.dumps({"info": {"features": kinds}})

    def _info(self, abouts, texts):
        return {
            "codebase_version": "v3.0",
            "robot_type": self.spec.robot or None,
            "total_episodes": len(abouts),
            "total_frames": sum(about["length"] for about in abouts),
            "total_tasks": len(texts),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": _whole(self.spec.fps),
            "splits": {"train": f"0:{len(abouts)}"},
            "data_path": DATA_PATH,
            "video_path": None if self.spec.pictures == "png" else VIDEO_PATH,
            "features": self._features(),
        }


class _FilesInTurn:
    """Numbered files that are filled one after another. current: the open one; chunk, number: its place."""

    def __init__(self, out, pattern, most_mb):
        self.out, self.pattern, self.most = out, pattern, most_mb * 2**20
        self.current, self._count, self._size = None, 0, 0

    def next_needed(self, size):
        """Whether the next `size` bytes must go into a new file: then `begin` it."""
        needed = self.current is None or self._size + size > self.most
        self._size = size if needed else self._size + size
        return needed

    def begin(self, opened):
        """opened: path -> what is written to, which has a `close`."""
        if self.current is not None:
            self.current.close()
        self.chunk, self.number = divmod(self._count, CHUNK)
        path = self.out / self.pattern.format(chunk_index=self.chunk, file_index=self.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.current, self._count = opened(path), self._count + 1

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.current is not None:
            self.current.close()


def _append(source, stream, target, target_stream, seconds):
    """Copy a video's packets behind what is there, `seconds` long."""
    offset = seconds / stream.time_base
    assert offset.denominator == 1, f"a frame does not take a whole number of {stream.time_base} s"
    for packet in source.demux(stream):
        if packet.dts is None:  # the mark of its end
            continue
        packet.pts, packet.dts = packet.pts + int(offset), packet.dts + int(offset)
        packet.stream = target_stream
        target.mux(packet)


def _tasks_table(texts):
    """Texts are pandas' index, and that is what LeRobot looks them up in."""
    index = {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object"}
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [{**column, "metadata": None}, {**index, "metadata": None}],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(texts)), type=pa.int64()), "__index_level_0__": texts})
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})


def _write_table(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _whole(fps):
    return int(fps) if fps == int(fps) else fps
