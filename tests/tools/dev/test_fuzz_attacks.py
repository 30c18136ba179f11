"""An attacker survives whatever the server does to it."""

import asyncio

import numpy as np
import pytest
from websockets.http11 import Request
from websockets.server import ServerProtocol

from tools.dev.fuzz_attacks import MANNERS, MESSAGES, Target, misbehave, send_messages

METADATA = {"resolution": 64, "views": ["agentview", "eye_in_hand"]}


async def opened(reader, writer):
    """Takes a websocket and says hello, as the server of policies does."""
    protocol = ServerProtocol()
    while not (events := protocol.events_received()):
        if not (data := await reader.read(4096)):
            raise ConnectionError("gone before it asked")
        protocol.receive_data(data)
    (request,) = events
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    protocol.send_binary(b"hello")
    writer.write(b"".join(protocol.data_to_send()))
    return protocol


async def end_while_it_sends(reader, writer):
    """Closes with 1009 and ends its half of the connection in the middle of a message, then reads the rest of it."""
    protocol = await opened(reader, writer)
    await reader.read(100)
    protocol.fail(1009, "message too big")
    writer.write(b"".join(protocol.data_to_send()))
    writer.write_eof()
    await asyncio.sleep(0.1)
    while await reader.read(2**20):
        pass


async def end_unread(reader, writer):
    await opened(reader, writer)
    await reader.read(1)
    writer.transport.abort()


async def random_bytes(reader, writer):
    await opened(reader, writer)
    writer.write(np.random.default_rng(0).bytes(5000))
    await reader.read(100)


async def text_instead_of_http(reader, writer):
    await reader.read(100)
    writer.write(b"\xff\xfe no HTTP\r\n\r\n" * 20)


async def half_an_answer(reader, writer):
    await reader.read(100)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgr")


async def nothing(reader, writer):
    writer.transport.abort()


SERVERS = (end_while_it_sends, end_unread, random_bytes, text_instead_of_http, half_an_answer, nothing)


async def attacked(behave, attack):
    """What `attack(target)` returns, of a server that does `behave` to every connection."""

    async def answer(reader, writer):
        try:
            async with asyncio.timeout(0.5):
                await behave(reader, writer)
        except (OSError, AssertionError, ValueError, TimeoutError):  # not every attacker opens a websocket
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        return await attack(Target(f"ws://{host}:{port}", "key", METADATA, "/nowhere"))


@pytest.mark.slow
def test_attackers_survive():
    async def every(target):
        messages = [send_messages(make, np.random.default_rng(0), target) for make in MESSAGES]
        manners = [misbehave(attack, np.random.default_rng(0), target) for attack in MANNERS]
        return await asyncio.gather(*messages, *manners)

    async def everywhere():
        return await asyncio.gather(*(attacked(behave, every) for behave in SERVERS))

    for behave, tallies in zip(SERVERS, asyncio.run(everywhere()), strict=True):
        assert all(tally.total() for tally in tallies) and not any(tally["answers"] for tally in tallies), behave


def test_one_whose_message_is_cut_off_is_told_that_it_was_closed():
    """asyncio sends the rest, forgets the loop, and then fails to abort: AttributeError."""
    rng = np.random.default_rng(0)
    large = lambda rng, target: bytes(8_000_000)  # noqa: E731
    tally = asyncio.run(attacked(end_while_it_sends, lambda target: send_messages(large, rng, target)))
    assert tally == {"sent": 1, "closed": 1}
