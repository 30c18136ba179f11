"""A checkpoint's trainer state as the ranks of a sharded run hold it, read for any number of ranks, sharded or not.

    trainer.json                              plain values, and which rows of which parameter each rank holds
    trainer_00000-of-00004.safetensors        of rank 0: KEY/PARAMETER, see below, and the states of its generators

KEY is what the optimizer calls a state (exp_avg, exp_avg_sq, step, ...), or `average` and `weight` with a moving
average. A run that is not sharded has all of it in trainer.pt.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from libs.errors import BadInput, first_line
from rv_train.parallel import Ddp, Piece, local_tensor

if TYPE_CHECKING:
    from rv_train.optim import Ema

BY_ROW = ("exp_avg", "exp_avg_sq", "average", "weight")  # of the parameter's shape, so that ranks can share its rows
RNG = "rng/"


def part_name(rank: int, world_size: int) -> str:
    return f"trainer_{rank:05d}-of-{world_size:05d}.safetensors"


def share_tensors(
    pieces: Sequence[Piece], optimizer: torch.optim.Optimizer, ema: "Ema", rng: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What a rank writes, {name in the file: tensor on the CPU}: copies, so that training may go on.

    Args:
        pieces: of `rv_train.parallel`. rng: {device: state of the generator}.
    """
    found = {RNG + device: state for device, state in rng.items()}
    averages = ema.state_dict()
    for number, piece in enumerate(pieces):
        for key, value in optimizer.state.get(piece.parameter, {}).items():
            found[f"{key}/{piece.name}"] = local_tensor(torch.as_tensor(value))
        for key in ("average", "weight") if averages else ():
            found[f"{key}/{piece.name}"] = averages[key + "s" * (key == "weight")][number]
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}


def write_part(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the generators that this rank draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, torch.Tensor] | None, device: torch.device) -> None:
    """Put this rank's generators where they were; None, of a rank that did not exist then, keeps its fresh ones."""
    if state:
        torch.set_rng_state(state["cpu"])
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)


class Shares:
    """The states in the files of a sharded run; a context manager.

    Args:
        folder: of the checkpoint.
        trainer: what trainer.json says.

    Raises:
        BadInput: a part that cannot be read.
    """

    def __init__(self, folder: Path, trainer: Mapping[str, Any]) -> None:
        self.folder, self.starts, self.world_size = folder, trainer["starts"], trainer["world_size"]
        self.count = trainer["ema"]
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.files, self.holders = [], {}
        for rank in range(self.world_size):
            path = self.folder / part_name(rank, self.world_size)
            try:
                self.files.append(self._open.enter_context(safe_open(path, "pt")))
            except (OSError, SafetensorError) as error:
                raise BadInput(f"{path} cannot be read: {first_line(error)}") from error
            for name in self.files[-1].keys():  # noqa: SIM118
                self.holders.setdefault(name, []).append(rank)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def rng(self, rank: int) -> dict[str, torch.Tensor] | None:
        """{device: state} of a rank's generators; None of one that there was not."""
        if rank >= self.world_size:
            return None
        names = [name for name in self.files[rank].keys() if name.startswith(RNG)]  # noqa: SIM118
        return {name.removeprefix(RNG): self.files[rank].get_tensor(name).clone() for name in names}

    def keys(self, name: str) -> list[str]:
        """The optimizer's states of a parameter."""
        found = (key.partition("/") for key in self.holders)
        return [key for key, _, of in found if of == name and key not in ("average", "weight")]

    def read(self, key: str, piece: Piece) -> torch.Tensor:
        """A state's rows that belong to a Piece, a tensor of its own on the CPU."""
        name = f"{key}/{piece.name}"
        if key not in BY_ROW:
            return self.files[self.holders[name][0]].get_tensor(name).clone()
        first, end, found = piece.start, piece.start + len(piece.value), []
        for rank in self.holders[name]:
            rows = self.files[rank].get_slice(name)
            start = self.starts[rank][piece.name]
            low, high = max(first, start), min(end, start + rows.get_shape()[0])
            if low < high:
                found.append(rows[low - start : high - start])
        return torch.cat(found) if found else torch.empty_like(piece.value, device="cpu")


class Whole:
    """The states in a trainer.pt, asked as `Shares` is.

    Args:
        trainer: what `checkpoint.load_trainer` gave. names: of the trained parameters, in the optimizer's order.
    """

    def __init__(self, trainer: Mapping[str, Any], names: Sequence[str]) -> None:
        self.numbers = {name: number for number, name in enumerate(names)}
        self.states, self.ema, self.generators = trainer["optimizer"]["state"], trainer["ema"], trainer["rng"]
        self.count = self.ema["count"] if self.ema else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def rng(self, rank: int) -> dict[str, torch.Tensor] | None:
        return self.generators[rank] if rank < len(self.generators) else None

    def keys(self, name: str) -> list[str]:
        return list(self.states.get(self.numbers[name], {}))

    def read(self, key: str, piece: Piece) -> torch.Tensor | int:
        number = self.numbers[piece.name]
        lists = {"average": "average", "weight": "weights"}
        value = self.ema[lists[key]][number] if key in lists else self.states[number][key]
        return value[piece.start : piece.start + len(piece.value)] if key in BY_ROW else value


def open_states(folder: Path, trainer: Mapping[str, Any], names: Sequence[str]) -> Shares | Whole:
    """The optimizer's states and averages of a checkpoint, a context manager; arguments as of `Shares` and `Whole`."""
    return Whole(trainer, names) if "optimizer" in trainer else Shares(folder, trainer)


def load_states(saved: Shares | Whole, parallel: Ddp, optimizer: torch.optim.Optimizer, ema: "Ema") -> None:
    """Put what a checkpoint holds of this rank's pieces where it belongs.

    Args:
        saved: from `open_states`, open.
        parallel: one of `rv_train.parallel`.
    """
    numbers = {name: number for number, (name, _) in enumerate(parallel.trained)}
    states = {}
    for piece in parallel.pieces:
        state = {key: _placed(saved.read(key, piece), piece, key) for key in saved.keys(piece.name)}
        if state:
            states[numbers[piece.name]] = state
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    if saved.count is None:
        ema.load_state_dict({})
        return
    lists = {"average": "average", "weights": "weight"}
    found = {name: [saved.read(key, piece) for piece in parallel.pieces] for name, key in lists.items()}
    ema.load_state_dict({"count": saved.count, **found})


def _placed(value, piece, key):
    if not torch.is_tensor(value):
        return value
    if value.dim() == 0 and not value.is_floating_point():
        return int(value)  # bitsandbytes counts its steps so
    if key not in BY_ROW:
        return value
    value, parameter = value.to(piece.value.device), piece.parameter
    if not isinstance(parameter, DTensor):
        return value
    places = parameter.device_mesh, parameter.placements
    return DTensor.from_local(value, *places, run_check=False, shape=parameter.shape, stride=parameter.stride())
