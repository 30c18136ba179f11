"""What tools/dev/fuzz_server.py sends to a policy server in the form of vla-eval: broken frames, pictures that lie.

Every message of MESSAGES wants an answer.
"""

import io
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from rv_eval.serving import wire
from rv_eval.serving.vla_eval import ENTRIES, is_frame

if TYPE_CHECKING:
    from tools.dev.fuzz_attacks import Target


KINDS = ("png", "jpeg", "raw")


def is_refusal(answer: bytes | str) -> bool:
    """Whether an answer says that something was wrong, in either form."""
    if isinstance(answer, str):
        return True
    message = wire.unpack(answer)
    return is_frame(message) and message["type"] == "error"


def frame(kind: Any, payload: Any, seq: int = 1) -> bytes:
    return wire.pack(dict(zip(ENTRIES, (kind, payload, seq, time.time()), strict=True)), wire.Form.TEXT_KEYS)


def picture(pixels: np.ndarray, kind: str = "png", **options: Any) -> dict:
    """The map that stands for an array of pixels."""
    if kind == "raw":
        return {"__image__": True, "format": "raw", "data": pixels.tobytes(), "dtype": "|u1", "shape": pixels.shape}
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return {"__image__": True, "format": kind, "data": data.getvalue(), "shape": pixels.shape}


def observation(rng: np.random.Generator, target: "Target") -> dict:
    side, kind = int(rng.choice([64, 128])), str(rng.choice(KINDS))
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return {"images": dict.fromkeys(target.metadata["views"], picture(pixels, kind)), "task_description": "go there"}


def vla_eval_valid(rng: np.random.Generator, target: "Target") -> bytes:
    return frame("observation", observation(rng, target), int(rng.integers(2**40)))


def vla_eval_frames(rng: np.random.Generator, target: "Target") -> bytes:
    own = observation(rng, target)
    frames = [
        frame("observation", own, -1),
        frame("observation", own, 2**60),
        frame("observation", own | {"images": list(own["images"].values())}),
        frame("observation", own | {"images": {}}),
        frame("observation", own | {"task_description": own["images"]}),
        frame("observation", own | {"task_description": "<|image_pad|>" * 30}),
        frame("observation", {"images": own, "task_description": "x"}),
        frame("observation", []),
        frame("observation", None),
        frame(own, own),
        frame("action", {"actions": np.zeros(7)}),
        frame("hello " * 1000, {}),
        frame({"__ndarray__": True}, {}),
        wire.pack({"type": "observation", "payload": own, "seq": "1", "timestamp": float("nan")}, wire.Form.TEXT_KEYS),
    ]
    return frames[rng.integers(len(frames))]


def png_head(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says it is so large, and holds hardly anything."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    chunks += [(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**23))), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(data)) + name + data for name, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(part + struct.pack(">I", zlib.crc32(part[4:])) for part in packed)


def vla_eval_pictures(rng: np.random.Generator, target: "Target") -> bytes:
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    good = picture(pixels, str(rng.choice(KINDS)))
    data = bytearray(good["data"])
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    files = [
        good | {"data": bytes(data)},
        good | {"data": good["data"][: rng.integers(len(data))]},
        good | {"data": png_head(60_000, 60_000), "format": "png"},
        good | {"data": png_head(64, 64), "format": "png"},
        good | {"data": png_head(768, 768, 16, 6), "format": "png", "shape": [768, 768, 3]},
        good | {"shape": [2**31, 2**31, 3]},
        good | {"shape": [-1, 64, 3]},
        good | {"shape": [64, 64, 1]},
        good | {"shape": "64"},
        good | {"format": "tiff"},
        good | {"format": "raw", "dtype": "|O"},
        good | {"__image__": {}},
        good | {"more": [[[]]]},
        picture(pixels, "jpeg", progressive=True),
        picture(np.zeros((768, 768, 3), np.uint8), "png"),
        {"__image__": True},
    ]
    chosen = files[rng.integers(len(files))]
    return frame("observation", {"images": dict.fromkeys(target.metadata["views"], chosen), "task_description": "go"})


def episode_frames(rng: np.random.Generator, count: int) -> list[bytes]:
    """Beginnings and ends in any order, none of which is answered."""
    task = {"name": "a" * 100, "task_id": int(rng.integers(9)), "more": [None] * 50}
    return [frame(str(rng.choice(["episode_start", "episode_end", "error"])), {"task": task}) for _ in range(count)]


MESSAGES = (vla_eval_valid, vla_eval_frames, vla_eval_pictures)
