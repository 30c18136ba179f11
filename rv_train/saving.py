"""Checkpoints of a run in progress: all ranks write together, and training goes on meanwhile.

A save copies what it will write to host memory; the rest is done by a thread: files, checksums, the marker, and what
ranks have to tell each other about it, over a group of their own. The next save, or the end, waits for it.

Nodes need not share a file system: ranks that do not see the folder of rank 0 send it their part, and when a run is
resumed they are sent what they lack. Everything a run has lies where rank 0 is.
"""

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save
from yacs.config import CfgNode

from libs.errors import first_line
from rv_train import checkpoint, shares
from rv_train.distributed import LONG_WAIT, Rank, gather_objects

if TYPE_CHECKING:
    from rv_train.data.load import TrainingData
    from rv_train.optim import Ema
    from rv_train.parallel import Ddp


CHUNK = 2**26  # bytes that are sent at once


class Saver:
    """Saves for all ranks, which call every method together. A context manager: at its end nothing is being written.

    Args:
        run: run folder.
        cfg: the config tree.
        data: a TrainingData.
        parallel: one of `rv_train.parallel`.
        rank: a distributed.Rank.
    """

    def __init__(self, run: Path | str, cfg: CfgNode, data: "TrainingData", parallel: "Ddp", rank: Rank) -> None:
        self.run, self.cfg, self.data, self.parallel, self.rank = run, cfg, data, parallel, rank
        self.group = dist.new_group(backend="gloo", timeout=LONG_WAIT)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.finish()
            dist.barrier()  # nobody ends, and closes its connections, while another still listens to it
        elif self._thread:
            self._thread.join()  # what is nearly saved shall be saved

    def save(
        self, values: Mapping[str, Any], optimizer: torch.optim.Optimizer, ema: "Ema", links: Sequence[str] = ()
    ) -> None:
        """Save the run as it is now.

        Args:
            values: what `rv_train.prepare.TRAINER_STATE` names, without "ema".
            optimizer, ema: of this rank.
            links: see `checkpoint.save_checkpoint`.

        Raises:
            OSError: it cannot be written, or the one before it could not. Where TRAIN.async_save is on, of this one the
                next call says so.
        """
        self.finish()
        with ema.swapped():  # model/ is what evaluation opens: the average, where there is one
            model = self.parallel.snapshot()
        rng, part = shares.rng_state(self.rank.device), None
        if self.parallel.shared:
            part = shares.share_tensors(self.parallel.pieces, optimizer, ema, rng)
            starts = gather_objects({piece.name: piece.start for piece in self.parallel.pieces}, self.group)
            values = {**values, "ema": ema.updates(), "starts": starts}
        else:
            generators = gather_objects(rng, self.group)
            if self.rank.is_main:
                averages = ema.state_dict()
                if averages:  # its weights are copies already
                    averages["average"] = on_cpu(averages["average"])
                optimizer_state = on_cpu(optimizer.state_dict())
                values = {**values, "optimizer": optimizer_state, "ema": averages, "rng": generators}
        self._thread = threading.Thread(target=self._write, args=(model, values, part, links), daemon=True)
        self._thread.start()
        if not self.cfg.TRAIN.async_save:
            self.finish()

    def check(self) -> None:
        """Raise what `finish` would, if it is known already."""
        if self._error:
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is being written.

        Raises:
            OSError: what was being written cannot be.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def _write(self, model, values, part, links):
        """In the thread, on every rank: rank 0 writes what is not shared, see `checkpoint.save_checkpoint`."""
        try:
            if self.rank.is_main:
                self._error = self._write_main(model, values, part, links)
            elif self._from_main():  # else rank 0 could not begin
                self._write_part(self.beside(values["step"]), part)
            failed = self._from_main(str(self._error) if self._error else "")
            if failed and not self._error:
                self._error = OSError(failed)
        except Exception as error:  # of another rank that is no more, or of this program: `finish` raises it
            self._error = error

    def _write_main(self, model, values, part, links):
        """Returns what went wrong, None where nothing did."""
        begun = False

        def parts(beside):
            nonlocal begun
            begun = bool(self._from_main(True))
            return self._write_part(beside, part)

        facts = self.data.action_stats, self.data.info
        try:
            checkpoint.save_checkpoint(
                self.run, values["step"], model, values, self.cfg, *facts, links, parts if part else None
            )
        except Exception as error:
            return error
        else:
            if self.cfg.TRAIN.save_base:
                self.parallel.outline.backbone.base_folder = model.backbone.base_folder
        finally:
            if not begun:
                self._from_main(False)
        return None

    def beside(self, step: int) -> Path:
        return Path(self.run) / f"step_{step:08d}.tmp"

    def _write_part(self, beside, tensors):
        """All ranks: put the shares into the folder; where it is not seen, through rank 0. Returns what was written,
        {name: {"size", "sha256"}}, over all ranks; raises OSError where one could not."""
        seen = gather_objects(beside.is_dir(), self.group)
        path = beside / shares.part_name(self.rank.rank, self.rank.world_size)
        paths, failed = [], ""
        try:
            if seen[self.rank.rank]:
                shares.write_part(path, tensors)
                paths.append(path)
            else:
                self._send(save(tensors))
        except (OSError, SafetensorError) as error:
            failed = first_line(error)
        for sender in [rank for rank, sees in enumerate(seen) if not sees] if self.rank.is_main else ():
            paths.append(beside / shares.part_name(sender, self.rank.world_size))
            failed = self._receive(sender, paths[-1]) or failed
        files = {} if failed else checkpoint.describe_files(beside, paths)
        told = gather_objects((files, failed), self.group)
        for rank, (_, failed) in enumerate(told):
            if failed and self.rank.is_main:
                raise OSError(f"rank {rank}: {failed}")
        return {name: facts for files, _ in told for name, facts in files.items()}

    def _from_main(self, value=None):
        """What rank 0 says, on every rank."""
        told = [value]
        dist.broadcast_object_list(told, group=self.group)
        return told[0]

    def _send(self, content):
        dist.send(torch.tensor([len(content)]), dst=0, group=self.group)
        for begin in range(0, len(content), CHUNK):
            dist.send(_bytes(content[begin : begin + CHUNK]), dst=0, group=self.group)

    def _receive(self, sender, path):
        """All of it, though the disk be full: the sender would wait for ever. Returns what went wrong, a line."""
        left, failed = torch.zeros(1, dtype=torch.int64), ""
        dist.recv(left, src=sender, group=self.group)
        while left > 0:
            chunk = torch.empty(min(int(left), CHUNK), dtype=torch.uint8)
            dist.recv(chunk, src=sender, group=self.group)
            left -= len(chunk)
            try:
                with open(path, "ab") as file:  # a new one: the folder was empty
                    file.write(chunk.numpy().data)
            except OSError as error:
                failed = first_line(error)
        return failed


def mirror(folder: Path | str, rank: Rank) -> None:
    """Let every rank see a checkpoint of rank 0: where nodes do not share a file system, the first rank of each that
    lacks it is sent its files. All ranks call it together, before anybody opens the folder."""
    marker = Path(folder) / checkpoint.COMPLETE
    markers = gather_objects(marker.read_bytes() if marker.is_file() else None)
    if all(found == markers[0] for found in markers):
        return
    lacks = markers[rank.rank] != markers[0] and os.environ.get("LOCAL_RANK", "0") == "0"
    names: list[list[tuple[str, int]]] = [[]]
    if rank.is_main:  # the marker last
        paths = [path for path in checkpoint.files_below(folder) if path != marker]
        names = [[(str(path.relative_to(folder)), path.stat().st_size) for path in [*paths, marker]]]
    dist.broadcast_object_list(names)
    for name, size in names[0]:
        _copy(Path(folder) / name, size, rank, lacks)
    dist.barrier()


def _copy(path, size, rank, receives):
    """A file of rank 0 goes to the ranks that receive."""
    with contextlib.ExitStack() as stack:
        if receives:
            path.parent.mkdir(parents=True, exist_ok=True)
        source = stack.enter_context(open(path, "rb")) if rank.is_main else None
        target = stack.enter_context(open(path, "wb")) if receives else None
        for begin in range(0, size, CHUNK):
            length = min(CHUNK, size - begin)
            chunk = _bytes(source.read(length)) if source else torch.empty(length, dtype=torch.uint8)
            chunk = chunk.to(rank.device)
            dist.broadcast(chunk, src=0)
            if target:
                target.write(chunk.cpu().numpy().data)


def _bytes(content):
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def on_cpu(tree: Any) -> Any:
    """A tree of dicts and lists with its tensors copied to the CPU."""
    if isinstance(tree, dict):
        return {key: on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(on_cpu(value) for value in tree)
    return tree.detach().to("cpu", copy=True) if torch.is_tensor(tree) else tree
