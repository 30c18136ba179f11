"""What tools/dev/fuzz_server.py does to a policy server: broken messages, broken frames, broken manners."""

import asyncio
import base64
import contextlib
import os
import pickle
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from rv_eval.serving import wire
from rv_eval.serving.protocol import authorization, message_limit
from tools.dev import fuzz_vla_eval

ANSWER_TIMEOUT_S = 60.0  # for one message of an attacker: there may be many before it
TEXT, BINARY, PING = 1, 2, 9
OUTCOMES = ("answers", "errors", "closed", "refused", "no answer")


@dataclass
class Target:
    """url, api_key: of the server. metadata: what it says about itself. marker: a path that must never exist."""

    url: str
    api_key: str | None
    metadata: dict
    marker: str

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("ws://").rsplit(":", 1)
        return host.strip("[]"), int(port)

    def observation(self, rng: np.random.Generator) -> dict:
        """A valid one, in one of the two forms."""
        side = int(rng.choice([self.metadata["resolution"], 64]))
        pictures = {view: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for view in self.metadata["views"]}
        instruction = f"pick up object {rng.integers(10**6)}"
        if rng.random() < 0.5 and set(pictures) == {"agentview", "eye_in_hand"}:
            names = {"observation/image": pictures["agentview"], "observation/wrist_image": pictures["eye_in_hand"]}
            return {**names, "observation/state": rng.normal(size=8), "prompt": instruction}
        return {"views": pictures, "instruction": instruction, "proprio": rng.normal(size=9).astype(np.float32)}

    def with_picture(self, rng: np.random.Generator, picture: Any) -> dict:
        own = {view: picture for view in self.metadata["views"]}
        return {"views": own, "instruction": f"pick up object {rng.integers(100)}"}


class MakesMarker:
    """Unpickling one makes the folder `path`."""

    def __init__(self, path: Path | str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def _array(data=b"\0" * 48, dtype="|u1", shape=(4, 4, 3)):
    """An array's map that numpy itself would not write."""
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


# ---- messages: (rng, target) -> bytes, str, or a list of fragments


def valid(rng: np.random.Generator, target: Target) -> bytes:
    return wire.pack(target.observation(rng), list(wire.Form)[rng.integers(len(wire.Form))])


def random_bytes(rng: np.random.Generator, target: Target) -> bytes:
    return rng.bytes(int(rng.integers(0, 5000)))


def truncated(rng: np.random.Generator, target: Target) -> bytes:
    whole = valid(rng, target)
    return whole[: rng.integers(len(whole))]


def bit_flips(rng: np.random.Generator, target: Target) -> bytes:
    data = bytearray(valid(rng, target))
    head = rng.random() < 0.7  # where names, types and shapes are; the rest is pictures
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(120 if head else len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def huge_declared(rng: np.random.Generator, target: Target) -> bytes:
    shape = [(2**31, 2**31, 3), (10**6, 10**6, 3), (2**62,), (0, 2**62, 3), (-1, 4, 3)][rng.integers(5)]
    lies = [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x05"]
    if rng.random() < 0.5:
        return lies[rng.integers(4)] + rng.bytes(20)
    return msgpack.packb(target.with_picture(rng, _array(shape=shape)))


def huge_real(rng: np.random.Generator, target: Target) -> bytes:
    """Close to the limit, or beyond it."""
    limit = message_limit(target.metadata["views"])
    if rng.random() < 0.5:
        return bytes(limit + 1)
    side = int(rng.choice([768, 769]))
    return wire.pack(target.with_picture(rng, np.zeros((side, side, 3), np.uint8)))


def wrong_dtype(rng: np.random.Generator, target: Target) -> bytes:
    name = str(rng.choice(["float32", "float64", "int64", "bool", "int8", "float16"]))
    foreign = str(rng.choice([">f4", "<c8", "<M8[s]", "|V48", "<U12", "|S48", "u1", "<i4,<f4", "", "x" * 300]))
    own = target.with_picture(rng, np.zeros((64, 64, 3), name))
    return wire.pack(own) if rng.random() < 0.5 else msgpack.packb(target.with_picture(rng, _array(dtype=foreign)))


def pickled(rng: np.random.Generator, target: Target) -> bytes:
    """Object arrays and pickles, wherever somebody might load them."""
    bomb = pickle.dumps(MakesMarker(target.marker), protocol=int(rng.integers(0, 5)))
    dtype = str(rng.choice(["|O", "O", "O8", "|O8", "<O8"]))
    scalar = {b"__npgeneric__": True, b"data": bomb, b"dtype": dtype}
    messages = [
        target.with_picture(rng, _array(bomb, dtype, (1,))),
        target.with_picture(rng, _array(bomb, dtype, (len(bomb) // 8,))),
        target.with_picture(rng, scalar),
        target.with_picture(rng, bomb),
        target.with_picture(rng, msgpack.ExtType(int(rng.integers(0, 127)), bomb)),
        target.with_picture(rng, {b"nd": True, b"type": dtype, b"kind": b"O", b"shape": (1,), b"data": bomb}),
        target.with_picture(rng, {b"nd": True, b"type": [("", "|O")], b"kind": b"", b"shape": (1,), b"data": bomb}),
        target.with_picture(rng, {b"nd": False, b"type": dtype, b"data": bomb}),
        target.with_picture(rng, {"__ndarray__": True, "data": bomb, "dtype": dtype, "shape": (1,)}),
    ]
    choice = rng.integers(len(messages) + 1)
    return bomb if choice == len(messages) else msgpack.packb(messages[choice])


def deep(rng: np.random.Generator, target: Target) -> bytes:
    depth = int(rng.choice([8, 100, 1000, 100_000]))
    return bytes(rng.choice([b"\x91", b"\x81\xa1a", b"\xdc\x00\x02\xc0"])) * depth + b"\xc0"


def huge_map(rng: np.random.Generator, target: Target) -> bytes:
    if rng.random() < 0.5:
        return msgpack.packb({str(number): [] for number in range(100_000)})
    return b"\xdc\x04\x00" + (b"\xdc\x04\x00" + b"\x80" * 1024) * 1024  # a million empty maps


def wrong_shape(rng: np.random.Generator, target: Target) -> bytes:
    shapes = [(64, 64), (64, 64, 4), (3, 64, 64), (1, 64, 64, 3), (0, 0, 3), (1, 1, 3), (64, 32, 3), (), (12288,)]
    return wire.pack(target.with_picture(rng, np.zeros(shapes[rng.integers(len(shapes))], np.uint8)))


def wrong_values(rng: np.random.Generator, target: Target) -> bytes:
    own = target.with_picture(rng, np.zeros((64, 64, 3), np.uint8))
    changes: list[dict[str, Any]] = [
        {"proprio": np.full(9, np.nan)},
        {"proprio": np.full(9, np.inf, np.float16)},
        {"proprio": np.zeros(10_000)},
        {"instruction": "a" * 4000},
        {"instruction": "<|image_pad|>" * 20},
        {"instruction": 5},
        {"instruction": ""},
        {"random_key": [-1]},
        {"random_key": [2**63]},
        {"draft": [-1]},
        {"draft": [2**62] * 100},
        {"draft": list(range(50_000))},
        {"prefix": np.full((2, 7), np.nan)},
        {"prefix": np.zeros((2, 3, 7))},
        {"prefix": np.zeros((9, 7))},
        {"views": None},
        {"views": []},
    ]
    return wire.pack(own | changes[rng.integers(len(changes))])


def text_frame(rng: np.random.Generator, target: Target) -> str:
    return ["hello", "", "{}", "ä" * 1000, '{"views": {}}'][rng.integers(5)]


def fragments(rng: np.random.Generator, target: Target) -> list[bytes]:
    data = valid(rng, target)
    if rng.random() < 0.2:
        return [data[:1]] * 5000  # more than the library takes
    places = np.sort(rng.integers(0, len(data), int(rng.integers(1, 50))))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


MESSAGES = (
    *(valid, random_bytes, truncated, bit_flips, huge_declared, huge_real, wrong_dtype, pickled, deep, huge_map),
    *(wrong_shape, wrong_values, text_frame, fragments),
    *fuzz_vla_eval.MESSAGES,
)


class AttackersConnection(ClientConnection):
    """One that drops what is not sent yet once the server has ended its half.

    Otherwise asyncio would send the rest first, forget its loop with the last byte, and fail (AttributeError) when
    websockets then aborts a connection that it does not know to be gone.
    """

    def eof_received(self) -> None:
        super().eof_received()
        self.transport.abort()


async def send_messages(
    make: Callable[[np.random.Generator, Target], Any], rng: np.random.Generator, target: Target
) -> Counter:
    """A few messages of one kind over one websocket, each answered before the next."""
    tally = Counter()
    try:
        headers = {"Authorization": authorization(target.api_key)} if target.api_key else None
        options: dict[str, Any] = dict(
            additional_headers=headers, compression=None, proxy=None, max_size=None, close_timeout=2
        )
        options["create_connection"] = AttackersConnection
        async with connect(target.url, **options) as connection:
            await connection.recv()
            for _ in range(rng.integers(1, 6)):
                tally["sent"] += 1
                message = make(rng, target)
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await connection.send(message)
                    answer = await connection.recv()
                tally["errors" if fuzz_vla_eval.is_refusal(answer) else "answers"] += 1
    except InvalidHandshake:
        tally["refused"] += 1
    except ConnectionClosed:
        tally["closed"] += 1
    except TimeoutError:
        tally["no answer"] += 1
    except OSError:
        tally["refused"] += 1
    return tally


# ---- manners: (rng, target, reader, writer) -> None, over plain TCP


def request(target: Target, *lines: str) -> bytes:
    """The HTTP request that opens a websocket."""
    key = base64.b64encode(bytes(16)).decode()
    head = ["GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
    head += ["Sec-WebSocket-Version: 13"] + (
        [f"Authorization: {authorization(target.api_key)}"] if target.api_key else []
    )
    return "\r\n".join([*head, *lines, "", ""]).encode()


def frame(opcode: int, data: bytes, length: int | None = None, first: int = 0x80) -> bytes:
    """A frame as clients send them, masked with zeros. length: declared, if not the true one."""
    length = len(data) if length is None else length
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 2**16:
        size = b"\xfe" + length.to_bytes(2, "big")
    else:
        size = b"\xff" + length.to_bytes(8, "big")
    return bytes([first | opcode]) + size + bytes(4) + data


async def tcp_garbage(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(rng.bytes(int(rng.integers(1, 20_000))))
    await reader.read(1000)


async def http_garbage(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    lines = [f"X-{number}: {'a' * 100}" for number in range(200)]
    whole = request(target)
    requests = [
        whole.replace(b"GET", b"POST"),
        whole.replace(b"1.1", b"9.9"),
        whole.replace(b"websocket", b"carrier pigeon"),
        whole.replace(b"13", b"99"),
        request(target, *lines),
        request(target, "X: " + "a" * 20_000),
        request(target, "Transfer-Encoding: chunked"),
        request(target, "Origin: http://evil.example"),
        b"GET /healthz HTTP/1.1\r\n\r\n" * 5,
        whole.replace(b"Api-Key ", b"Api-Key x"),
        b"\r\n" * 1000,
    ]
    writer.write(requests[rng.integers(len(requests))])
    await reader.read(1000)


async def half_handshake(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    whole = request(target)
    writer.write(whole[: rng.integers(len(whole))])
    await asyncio.sleep(rng.uniform(0, 3))


async def storm(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Many connections, opened and dropped."""
    for _ in range(20):
        reader, writer = await asyncio.open_connection(*target.address)
        try:
            if rng.random() < 0.7:
                writer.write(request(target))
            if rng.random() < 0.5:
                await reader.read(100)
        finally:
            writer.transport.abort()


async def frame_garbage(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(request(target))
    await reader.read(100)
    broken = [
        rng.bytes(2000),
        frame(BINARY, b"", first=0xF0),  # reserved bits
        frame(5, b"what"),  # no such kind
        frame(0, b"the end of nothing"),
        b"\x82\x04abcd",  # unmasked
        frame(BINARY, b"", length=2**62),
        frame(PING, b"a" * 126),
        frame(TEXT, b"\xff\xfe"),
        frame(8, b"\x00"),
        frame(BINARY, b"a", first=0) + frame(BINARY, b"b"),  # a message inside a message
    ]
    writer.write(broken[rng.integers(len(broken))])
    await asyncio.wait_for(reader.read(100), 5)


async def half_message(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(request(target) + frame(BINARY, rng.bytes(100_000), length=1_000_000))
    await asyncio.sleep(rng.uniform(0, 3))


async def leaver(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Asks and does not wait, once or many times."""
    writer.write(request(target) + frame(BINARY, valid(rng, target)) * int(rng.choice([1, 20])))
    await asyncio.sleep(rng.uniform(0, 0.2))


async def slow_reader(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Talks and does not listen."""
    writer.write(request(target))
    talk = frame(BINARY, b"\xc1") if rng.random() < 0.5 else frame(PING, b"a" * 125)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(rng.uniform(1, 4)):
            while True:
                writer.write(talk * 500)
                await writer.drain()
                await asyncio.sleep(0.01)


async def episodes(
    rng: np.random.Generator, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Episodes of vla-eval's form that begin and end and ask for nothing, a thousand at once."""
    writer.write(request(target))
    for data in fuzz_vla_eval.episode_frames(rng, 1000):
        writer.write(frame(BINARY, data))
    await writer.drain()
    await asyncio.sleep(rng.uniform(0, 1))


MANNERS = (
    *(tcp_garbage, http_garbage, half_handshake, storm, frame_garbage, half_message, leaver, slow_reader),
    episodes,
)


async def misbehave(attack: Callable[..., Awaitable[None]], rng: np.random.Generator, target: Target) -> Counter:
    """One connection of bad manners; whatever the server does about it is fine."""
    tally = Counter(sent=1)
    writer = None
    try:
        async with asyncio.timeout(15):
            # little room, so that what is not read comes to lie with the server
            reader, writer = await asyncio.open_connection(*target.address, limit=4096)
            await attack(rng, target, reader, writer)
    except (OSError, TimeoutError):
        tally["closed"] += 1
    finally:
        if writer is not None:
            writer.transport.abort()
    return tally


ASKERS = (valid, bit_flips, fragments, leaver, fuzz_vla_eval.vla_eval_valid)  # what keeps the policy busy


async def attack_until(deadline: float, seed: int, number: int, target: Target, tallies: dict[str, Counter]) -> None:
    """Attacker `number`: random attacks, one after the other; the first of as many attackers are of different kinds.

    deadline: loop time. tallies: {kind: Counter}, filled.
    """
    rng = np.random.default_rng([seed, number])
    kinds: list[Any] = [*MESSAGES, *MANNERS]
    kind = kinds[number % len(kinds)]
    # Askers are rarer, else the attackers would mostly stand in line for answers.
    weights = np.array([0.2 if kind in ASKERS else 1.0 for kind in kinds])
    loop = asyncio.get_running_loop()
    while loop.time() < deadline:
        run = send_messages if kind in MESSAGES else misbehave
        tallies.setdefault(kind.__name__, Counter()).update(await run(kind, rng, target))
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
