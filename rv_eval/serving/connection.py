"""Websockets whose other end may be gone, silent, or greedy: a server's side, and how to hang up without waiting."""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from websockets.asyncio.server import ServerConnection
from websockets.sync.connection import Connection

T = TypeVar("T")

MAX_UNREAD = 2**20  # bytes sent to a client that does not read them


def abort(connection: Connection) -> None:
    """Close a connection of websockets.sync without waiting for the other side."""
    with contextlib.suppress(OSError):  # closed already
        connection.socket.shutdown(socket.SHUT_RDWR)
    connection.close()


async def unless_gone(connection: ServerConnection, coroutine: Coroutine[Any, Any, T]) -> T | None:
    """What the coroutine returns; None where the connection is closed before."""
    awaited = asyncio.ensure_future(coroutine)
    gone = asyncio.ensure_future(connection.wait_closed())
    try:
        await asyncio.wait({awaited, gone}, return_when=asyncio.FIRST_COMPLETED)
        return awaited.result() if awaited.done() else None
    finally:
        awaited.cancel()
        gone.cancel()


class GuardedConnection(ServerConnection):
    """Three limits that the library does not have: connections before their handshake, what a client leaves unread
    (a flood of pings is answered by pongs, which know no back-pressure), and how long its system acknowledges
    nothing."""

    def __init__(self, *args: Any, most: int, dead_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most, self._dead_s = most, dead_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.server.handler_tasks) > self._most:
            self.transport.abort()
        elif hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere the system's own limit, minutes, holds
            peer = transport.get_extra_info("socket")
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self._dead_s))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD:
            self.transport.abort()
