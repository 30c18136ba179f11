"""The server's port, taken before anything else is imported: clients that come meanwhile wait, they are not refused."""

import os
import socket

from libs.errors import BadInput

WAITING = 100  # connections that the system keeps until the server answers them


def take_port(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket that listens at `host`, of a name's addresses at the first of IPv4. port 0: any that is free.

    BadInput: it cannot be had.
    """
    try:
        if not 0 <= port < 65536:
            raise BadInput(f"--port must be from 0 to 65535, got {port}")
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(addresses, key=lambda found: found[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family, backlog=WAITING)
    except OSError as error:  # taken, forbidden, or no such host
        named = None if isinstance(error, socket.gaierror) else error.errno
        reason = os.strerror(named).lower() if named else error.strerror or error
        raise BadInput(
            f"cannot listen at {host}, port {port}: {reason}; choose another port (0: any that is free)"
        ) from None
