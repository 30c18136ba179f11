"""Pictures that travel as files: {"__image__": true, "format", "data", "shape"}, as vla-eval writes them.

Any client may send them; what comes is not trusted: a file is opened only once its camera is asked for, and decoded
only where its head says a size that is taken. Progressive JPEGs are not: a small one can hold hundreds of scans.
"""

import io
import math
from dataclasses import dataclass

import numpy as np

from libs.errors import BadInput
from rv_eval.serving.protocol import MAX_SIDE

MARK = "__image__"
FORMATS = ("png", "jpeg", "raw")


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as it came, nothing of it checked. found: the map that stands for it."""

    found: dict

    def decode(self) -> np.ndarray:
        """(H, W, C) uint8. BadInput: no such map, no such picture, another shape than declared, or no RGB."""
        found = self.found
        entries = {MARK, "format", "data", "shape"} | ({"dtype"} if found.get("format") == "raw" else set())
        if set(found) != entries or found[MARK] is not True:
            raise BadInput(f"a picture's map has the entries {', '.join(sorted(entries))}, and {MARK} is true")
        kind, data, shape = found["format"], found["data"], found["shape"]
        if kind not in FORMATS or found.get("dtype", "|u1") != "|u1":
            raise BadInput(f"a picture is a {', '.join(FORMATS[:-1])} or raw |u1, not {str(kind)[:20]!r}")
        whole = isinstance(shape, list) and len(shape) == 3 and all(type(side) is int for side in shape)
        if not isinstance(data, bytes) or not whole or not all(0 < side <= MAX_SIDE for side in shape):
            raise BadInput(f"a picture has data and a shape of three numbers up to {MAX_SIDE}")
        if kind != "raw":
            return _opened(data, kind, tuple(shape))
        if len(data) != math.prod(shape):
            raise BadInput(f"a raw picture of shape {shape} has {math.prod(shape)} bytes")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _opened(data, kind, shape):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as file:
            if (file.height, file.width, len(file.getbands())) != shape or file.mode != "RGB":
                found = f"{file.height} x {file.width} {file.mode}"
                raise BadInput(f"a picture is RGB of its declared shape {shape}, this {kind} is {found}")
            if file.info.get("progressive"):
                raise BadInput("a progressive JPEG is not taken: send a baseline one")
            return np.array(file)
    except BadInput:
        raise
    except Exception as error:  # the library's readers raise many kinds
        raise BadInput(f"a {kind} that cannot be read: {type(error).__name__}") from None
