"""What the benchmarks of training work on: made samples of the published recipe's size, and how numbers are told."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from yacs.config import CfgNode

if TYPE_CHECKING:
    from rv_train.data.base import Sample


STATS = {name: [sign * 1.0] * 7 for name, sign in (("min", -1), ("max", 1))}
INSTRUCTIONS = (
    "pick up the black bowl on the stove and place it on the plate",
    "put the white mug on the left plate and put the yellow and white mug on the right plate",
    "turn on the stove",
)


def made_samples(number: int, cfg: CfgNode, resolution: int = 256) -> "list[Sample]":
    """`number` Samples: soft blobs of colour, instructions of different lengths, actions of every size."""
    import cv2

    from rv_train.data.base import Sample

    rng, samples = np.random.default_rng(0), []
    for index in range(number):
        coarse = rng.integers(0, 256, (len(cfg.DATA.VIEWS), 8, 8, 3), dtype=np.uint8)
        samples.append(
            Sample(
                views=[cv2.resize(picture, (resolution, resolution)) for picture in coarse],
                instruction=INSTRUCTIONS[index % len(INSTRUCTIONS)],
                actions=rng.uniform(-1, 1, (cfg.ACTION.HORIZON, cfg.ACTION.DIM)).astype(np.float32),
                proprio=np.zeros(0, dtype=np.float32),
                file="made",
                demo="demo_0",
                frame=index,
            )
        )
    return samples


def rotated(names: list[str], turn: int) -> list[str]:
    """The names in the order of this turn: nobody always comes first."""
    start = turn % len(names)
    return names[start:] + names[:start]


def spread(values: Sequence[float]) -> dict:
    """{"median", "quartiles": [low, high]}"""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "quartiles": [float(low), float(high)]}


def with_quartiles(numbers: Mapping[str, Any], digits: int = 1) -> str:
    """What `spread` gave, as text: "12.3 (11.9-13.0)" """
    low, high = numbers["quartiles"]
    return f"{numbers['median']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as a table, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
