"""Writing demonstration files: beside and renamed, so that a kill never leaves half a file under the final name."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from libs.demo_hdf5.key_map import LIBERO
from libs.demo_hdf5.opening import open_file
from libs.demo_hdf5.output import Output
from libs.demo_hdf5.schema import IMAGE_CONVENTIONS, STORAGE, Demo, demo_number
from libs.errors import BadInput
from libs.files import flush

if TYPE_CHECKING:
    import h5py


class DemoWriter:
    """Writes one file; use it as a context manager. OSError: the disk does not take it; no file is left then.

    path: the final name; it appears when the block ends without an exception. attrs: attributes of `data`
    (env_name, problem_info, ...); num_demos, total and macros_image_convention are added.
    """

    _output: Output  # between __enter__ and __exit__

    def __init__(self, path: Path | str, attrs: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._beside = self.path.with_name(self.path.name + ".tmp")
        self._attrs = dict(attrs)
        self._count = self._total = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._output = Output(self._beside)
        try:
            with self._output.writing() as file:
                data = file.create_group("data")
                data.attrs["macros_image_convention"] = IMAGE_CONVENTIONS[LIBERO.upside_down]
                data.attrs.update(self._attrs)
        except BaseException:
            self._give_up()
            raise
        return self

    def add(self, demo: Demo) -> None:
        """Append a demo; BadInput where its lengths or shapes disagree."""
        length = len(demo.actions)
        rows_of = {name: getattr(demo, name) for name in ("states", "robot_states", "rewards", "dones")}
        for name, rows in {**rows_of, **demo.obs}.items():
            if len(rows) != length:
                raise BadInput(f"{self.path}: demo_{self._count}: {length} actions but {len(rows)} {name}")
        with self._output.writing() as file:
            group = file["data"].create_group(f"demo_{self._count}")
            group.attrs["num_samples"] = length
            group.attrs.update(demo.attrs)
            group["actions"] = np.asarray(demo.actions, dtype=np.float64)
            group["states"] = np.asarray(demo.states, dtype=np.float64)
            group["robot_states"] = np.asarray(demo.robot_states, dtype=np.float64)
            group["rewards"] = np.asarray(demo.rewards, dtype=np.uint8)
            group["dones"] = np.asarray(demo.dones, dtype=np.uint8)
            for name, values in demo.obs.items():
                if name in LIBERO.views:
                    stored = np.asarray(values, dtype=np.uint8)[:, ::-1, ::-1]
                    group.create_dataset(LIBERO.views[name], data=stored, chunks=(1, *stored.shape[1:]), **STORAGE)
                elif name in LIBERO.proprio:
                    group[LIBERO.proprio[name].key] = np.asarray(values, dtype=np.float64)
                else:
                    raise BadInput(f"{self.path}: unknown observation {name!r}")
        self._count += 1
        self._total += length

    def copy_from(self, path: Path | str, demo: str) -> None:
        """Append a demo of another file as it is stored, without packing its pictures again."""
        with open_file(path) as source, self._output.writing() as file:
            copy_demo(source, demo, file["data"], f"demo_{self._count}")
            self._total += source["data"][demo]["actions"].shape[0]
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._give_up()
            return
        try:
            with self._output.writing() as file:
                file["data"].attrs["num_demos"] = self._count
                file["data"].attrs["total"] = self._total
            self._output.close()
            flush(self._beside)
        except BaseException:
            self._give_up()
            raise
        os.replace(self._beside, self.path)

    def _give_up(self):
        with contextlib.suppress(OSError):  # what is being raised says it
            self._output.close()
        self._beside.unlink()


def copy_demo(source: "h5py.File", demo: str, data: "h5py.Group", name: str) -> None:
    """Copy a demo of an open file as it is stored to `name` below the group `data` of another one: what links in it
    lead to is copied, too, because they are relative to where their file lies."""
    source.copy(f"data/{demo}", data, name=name, expand_soft=True, expand_external=True)


def merge_files(path: Path | str, parts: Sequence[Path], more_attrs: Mapping[str, Any] | None = None) -> None:
    """Copy every demo of `parts`, file by file and in numeric order, into one file as demo_0, demo_1, ...

    Its attributes are the first part's and `more_attrs`.
    """
    with open_file(parts[0]) as first:
        attrs = {key: value for key, value in first["data"].attrs.items() if key not in ("num_demos", "total")}
    with DemoWriter(path, {**attrs, **(more_attrs or {})}) as writer:
        for part in parts:
            with open_file(part) as file:
                names = sorted(file["data"], key=demo_number)
            for name in names:
                writer.copy_from(part, name)
