"""A robot in another Python environment: `rv_eval.serving.robot.Robot` over a websocket, at whose other end
docs/examples/serve_lerobot.py or another program answers. Every message is packed as `wire.Form.TEXT_KEYS`:

    robot     once connected, {"protocol": PROTOCOL, "views": [camera], "proprio": {part: size}, "actions": [name]}
    here      {"do": "observe"}                    robot  {"views": {camera: array}, "proprio": {part: array}}
    here      {"do": "act", "action": (A,) floats} robot  {"done": true}
    here      {"do": "hold"}                       robot  {"done": true}
or a text: what was wrong. A robot that hears nothing for half a second holds by itself.
"""

from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import connect

from libs.errors import BadInput
from rv_eval.serving import wire
from rv_eval.serving.pictures import EncodedPicture

PROTOCOL = "vla0-robot/1"
MAX_BYTES = 16 * 2**20  # of an observation


class RobotLost(ConnectionError):
    """The robot does not answer, or not in time."""


class RobotRefused(RuntimeError):
    """The robot says that something went wrong there."""


class RemoteRobot:
    """The robot at `url`, "ws://host:port". timeout_s: for one answer.

    views, proprio, actions: what it shows and takes, as above. BadInput: nobody there, or no robot.
    """

    def __init__(self, url: str, timeout_s: float = 1.0) -> None:
        self.url, self._timeout_s = url, timeout_s
        try:
            options: dict[str, Any] = dict(
                compression=None, proxy=None, ping_interval=None, max_size=MAX_BYTES, legacy=True
            )
            self._connection = connect(url, open_timeout=5, close_timeout=1, **options)
            about = wire.unpack(self._connection.recv(5), MAX_BYTES)
        except (OSError, InvalidURI, InvalidHandshake, ConnectionClosed) as error:
            raise BadInput(f"--robot: nobody answers at {url}: {error or type(error).__name__}") from error
        if not isinstance(about, dict) or about.get("protocol") != PROTOCOL:
            self.close()
            raise BadInput(f"--robot: what answers at {url} does not say protocol {PROTOCOL!r}")
        self.views, self.proprio, self.actions = about["views"], about["proprio"], about["actions"]

    def observe(self) -> dict:
        answer = self._ask({"do": "observe"})
        if not all(isinstance(answer.get(name), dict) for name in ("views", "proprio")):
            raise RobotRefused(f"the robot at {self.url} answers observe with {list(answer)[:8]}")
        views = {
            name: picture.decode() if isinstance(picture, EncodedPicture) else picture
            for name, picture in answer["views"].items()
        }
        return {"views": views, "proprio": answer["proprio"]}

    def act(self, action: np.ndarray) -> None:
        self._ask({"do": "act", "action": np.asarray(action, np.float64)})

    def hold(self) -> None:
        self._ask({"do": "hold"})

    def close(self) -> None:
        """Hang up; the robot holds."""
        self._connection.close()

    def _ask(self, message):
        try:
            self._connection.send(wire.pack(message, wire.Form.TEXT_KEYS))
            answer = self._connection.recv(self._timeout_s)
        except (OSError, ConnectionClosed) as error:
            # An answer that comes later would be taken for the next one's.
            self._connection.socket.close()
            raise RobotLost(f"the robot at {self.url} does not answer {message['do']}: {error}") from error
        if isinstance(answer, str):
            raise RobotRefused(f"the robot at {self.url}: {answer}")
        answer = wire.unpack(answer, MAX_BYTES)
        return answer if isinstance(answer, dict) else {}
