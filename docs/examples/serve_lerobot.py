"""A LeRobot robot for `tools/run_robot.py`: copy this file into LeRobot's environment, which needs websockets and
msgpack beside it (pip install websockets msgpack), and start it there:

    python serve_lerobot.py --type so101_follower --robot_port /dev/ttyACM0 --id my_arm --units degrees \
        --camera front=0 --camera wrist=2 --max_relative_target 10

It connects the arm, prints what it shows and takes, and then does what its one client says: observe, act, hold. The
cameras give 640 x 480, and so they are sent: the policy cuts and resizes them as those of its training. Only where the
training data itself holds squares that were made of such frames, --square makes them here in the same way.

Safety. Where the client says nothing for WATCHDOG_S it holds: no further goal is sent and the servos keep the last one.
The limits of range and speed are run_robot's; --max_relative_target is LeRobot's own, in this process, and clips every
goal to so far from where the arm is. When this program ends, LeRobot switches the motors off: the arm falls, so lay it
down first. The power switch is yours.

Another robot: write `make_robot` anew. All that is used of it is LeRobot's interface: observation_features,
action_features, connect, get_observation, send_action, disconnect.
"""

import argparse
import contextlib
import importlib
import threading

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

PROTOCOL = "vla0-robot/1"
WATCHDOG_S = 0.5
MAX_SIDE = 768  # pixels of the shorter side; larger pictures are halved
STATE = "state"  # the name under which all joint positions are told, in LeRobot's order


class LeRobotServer:
    """Answers one client at a time.

    robot: a LeRobot robot, connected. square: "cut" or "pad", see `sized`. report: takes a line.
    """

    def __init__(self, robot, square=None, report=print):
        self.robot, self.square, self.report = robot, square, report
        self.cameras = [name for name, kind in robot.observation_features.items() if isinstance(kind, tuple)]
        self.joints = [name for name, kind in robot.observation_features.items() if not isinstance(kind, tuple)]
        self.actions = list(robot.action_features)
        self._busy = threading.Lock()

    def about(self):
        proprio = {STATE: len(self.joints)}
        return {"protocol": PROTOCOL, "views": self.cameras, "proprio": proprio, "actions": self.actions}

    def __call__(self, connection):
        """One client, from its connection to its end."""
        if not self._busy.acquire(blocking=False):
            connection.close(1013, "the robot has a client")
            return
        try:
            connection.send(packed(self.about()))
            silent = False
            while True:
                try:
                    message = connection.recv(WATCHDOG_S)
                except TimeoutError:
                    if not silent:
                        self.report(f"nothing said for {WATCHDOG_S:g} s: holding")
                        self.hold()
                    silent = True
                    continue
                silent = False
                connection.send(self.answer(message))
        except ConnectionClosed:
            self.report("the client is gone: holding")
        finally:
            self.hold()
            self._busy.release()

    def answer(self, message):
        """Packed, or a text that says what is wrong."""
        try:
            message = msgpack.unpackb(message, object_hook=unpacked)
            return packed(self.do(message["do"], message.get("action")))
        except Exception as error:  # a robot that is unplugged, a message that is none
            self.report(f"refused: {type(error).__name__}: {error}")
            return f"{type(error).__name__}: {error}"

    def do(self, what, action):
        if what == "observe":
            seen = self.robot.get_observation()
            state = np.array([float(seen[name]) for name in self.joints], np.float64)
            views = {name: sized(np.asarray(seen[name]), self.square) for name in self.cameras}
            return {"views": views, "proprio": {STATE: state}}
        if what == "act":
            if (
                not isinstance(action, np.ndarray)
                or action.shape != (len(self.actions),)
                or not np.isfinite(action).all()
            ):
                raise ValueError(f"an action is {len(self.actions)} finite numbers: {', '.join(self.actions)}")
            self.robot.send_action({name: float(value) for name, value in zip(self.actions, action, strict=True)})
        elif what == "hold":
            self.hold()
        else:
            raise ValueError(f"observe, act or hold, not {what!r}")
        return {"done": True}

    def hold(self):
        """Nothing is sent: servos keep their last goal, which is close where changes are limited. To send them where
        they are instead would let the arm sink a little each time. A robot that is told velocities needs zeros here."""


def sized(picture, square=None):
    """(H, W, 3) uint8 as it is, or a square (R, R, 3): "cut", its middle; "pad", all of it between black bars. Halved
    until the shorter side is at most MAX_SIDE."""
    height, width = picture.shape[:2]
    whole = picture
    if square == "pad":
        side = max(height, width)
        whole = np.zeros((side, side, 3), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        whole[top : top + height, left : left + width] = picture
    elif square == "cut":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        whole = picture[top : top + side, left : left + side]
    while min(whole.shape[:2]) > MAX_SIDE:
        height, width = (side // 2 for side in whole.shape[:2])
        halves = whole[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
        whole = halves.mean((1, 3)).round().astype(np.uint8)
    return np.ascontiguousarray(whole, np.uint8)


def packed(message):
    return msgpack.packb(message, default=array_map)


def array_map(array):
    data = {"data": array.tobytes(), "dtype": array.dtype.newbyteorder("<").str, "shape": array.shape}
    return {"__ndarray__": True, **data}


def unpacked(found):
    """Arrays of numbers only; nothing is ever unpickled."""
    if "__ndarray__" not in found:
        return found
    if found["dtype"] not in ("<f4", "<f8"):
        raise ValueError(f"an array of {found['dtype']} is not taken")
    return np.frombuffer(found["data"], found["dtype"]).reshape(found["shape"])


def make_robot(args):
    """The arm, connected. LeRobot has moved these classes: each place is tried."""
    family, model = args.type.split("_")[0].upper(), "so_follower"
    for place in (f"lerobot.robots.{args.type}", f"lerobot.robots.{model}", f"lerobot.common.robots.{args.type}"):
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(place)
            break
    else:
        raise SystemExit(f"LeRobot is not installed here, or knows no {args.type}")
    cameras = importlib.import_module("lerobot.cameras.opencv")
    eyes = {}
    for entry in args.camera:
        name, number = entry.split("=")
        where = int(number) if number.isdigit() else number
        eyes[name] = cameras.OpenCVCameraConfig(index_or_path=where, fps=args.fps, width=640, height=480)
    options = {"port": args.robot_port, "id": args.id, "cameras": eyes, "max_relative_target": args.max_relative_target}
    options["use_degrees"] = args.units == "degrees"
    robot = getattr(module, f"{family}Follower")(getattr(module, f"{family}FollowerConfig")(**options))
    robot.connect()
    return robot


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--type", default="so101_follower", help="so100_follower or so101_follower")
    parser.add_argument("--robot_port", required=True, help="serial port of the arm")
    parser.add_argument("--id", required=True, help="name under which the arm was calibrated")
    parser.add_argument("--units", choices=("degrees", "range"), required=True, help="of the joints, as in the data")
    parser.add_argument("--camera", action="append", default=[], metavar="NAME=NUMBER", help="as in the training data")
    parser.add_argument("--fps", type=int, default=30, help="of the cameras")
    parser.add_argument("--max_relative_target", type=float, required=True, help="farthest goal from where the arm is")
    parser.add_argument("--square", choices=("cut", "pad"), help="make squares: the middle, or all with black bars")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8010)
    args = parser.parse_args()
    robot = make_robot(args)
    try:
        server = LeRobotServer(robot, args.square)
        print(f"ws://{args.host}:{args.port}: {server.about()}", flush=True)
        with serve(server, args.host, args.port, compression=None, origins=[None], ping_interval=None) as listener:
            listener.serve_forever()
    finally:
        robot.disconnect()


if __name__ == "__main__":
    main()
