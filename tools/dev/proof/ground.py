"""What a part measures on, and how it tells."""

import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from yacs.config import CfgNode

from libs.errors import BadInput, first_line
from rv_train.config import load_cfg
from tools.dev.benchmarks.train import TINY

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[3]
MARK = "figure "  # how the lines of a part begin that its parent takes up
# So small that every part is through in seconds on a CPU.
SMALL = {
    **TINY,
    "MODEL.VOCAB_CUT": 512,
    "ACTION.HORIZON": 1,
    "IMAGE.SIZE": 56,
    "PROMPT.SYSTEM": "",
    "MODEL.TEXT.LAYERS": 2,
}


@dataclass
class Ground:
    """device: torch.device. tiny: sizes for a CPU. weights: folder of the published model, "" for random ones. folder:
    for files, gone afterwards. seconds: for all of the part."""

    device: torch.device
    tiny: bool
    weights: str
    folder: Path
    seconds: float
    began: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def say(self, name: str, value: float | None, unit: str = "", aim: str = "", note: str = "") -> None:
        """Tell a figure. value: a number, a bool, or None where there is none; aim: what is wanted, in words."""
        figure = {"name": name, "value": value, "unit": unit, "aim": aim, "note": note}
        print(MARK + json.dumps(figure), flush=True)

    def rows(self, rows: Iterable[Sequence[Any]], reserve: float = 0.0) -> Iterator[tuple[Any, ...]]:
        """Yield (name, rest of the row) while there are `reserve` seconds left. What goes wrong in the caller's loop is
        caught by `guarded`; what there is no time for is told."""
        for name, *rest in rows:
            if self.left() < reserve:
                self.say(name, None, note="no time left for it")
            else:
                yield name, *rest
                self.clear()

    def guarded(self, name: str, function: Callable[..., T], *args: Any) -> T | None:
        """function(*args), or None where it fails, which is told as the figure `name`: memory, packages, kernels."""
        try:
            return function(*args)
        except (RuntimeError, BadInput, ImportError, NotImplementedError, AssertionError) as error:
            self.say(name, None, note=f"{type(error).__name__}: {first_line(error)[:200]}")
            return None

    def clear(self) -> None:
        """Give memory back before the next model comes."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def published(self, **more: Any) -> CfgNode:
        """The published recipe with the weights that were given, or random ones; keyword A__B for key A.B."""
        start: dict[str, Any]
        if self.weights:
            start = {"MODEL.INIT": "pretrained", "MODEL.PATH": self.weights}
        else:
            start = {"MODEL.INIT": "random", **(SMALL if self.tiny else {})}
        return self.recipe("vla0.yaml", start, more)

    def recipe(
        self, name: str, start: Mapping[str, Any] | None = None, more: Mapping[str, Any] | None = None
    ) -> CfgNode:
        """A recipe of configs/ with pairs {key: value} and keywords A__B over it."""
        opts = {**(start or {}), **{key.replace("__", "."): value for key, value in (more or {}).items()}}
        return load_cfg(ROOT / "configs" / name, [part for pair in opts.items() for part in pair])
