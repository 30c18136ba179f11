"""A robot and a policy: at every control step look, ask early, execute, and stop where there is nothing to execute.

The next chunk is computed while the present one is executed; `rv_eval.splice` says when to ask and where an answer
begins. What goes wrong ends in a hold: no action left, an answer too late, lost or unreadable, a robot that is gone.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from libs.errors import BadInput
from rv_eval.agent import AgentSettings, Answering
from rv_eval.drafts import rest_of
from rv_eval.envs.base import ActionPart, snap
from rv_eval.picture_sizes import shape_remark
from rv_eval.serving.robot_limits import Limits
from rv_eval.serving.robot_log import RobotLog
from rv_eval.splice import SPLICE, Splicer, check_execution

if TYPE_CHECKING:
    from rv_train.policies.base import Prediction


DELAYS = 5  # the longest of so many last answers is what the next is expected to take
MAX_REFUSED = 3  # answers one after the other that cannot be executed


class Robot(Protocol):
    """What a robot must do. Each method returns within a fraction of a control step, and may raise anything."""

    def observe(self) -> dict:
        """{"views": {camera: (H, W, 3) uint8 upright}, "proprio": {part: (n,) floats}} of now. Pictures have the shape
        of those in the training data; their size does not matter."""

    def act(self, action: np.ndarray) -> None:
        """Execute (A,) float64, until the next call."""

    def hold(self) -> None:
        """Stay where you are. Called again and again, and after everything that goes wrong."""


class Clock:
    """Seconds; a test has one of its own."""

    def now(self) -> float:
        return time.monotonic()

    def wait_until(self, when: float) -> None:
        time.sleep(max(0.0, when - time.monotonic()))


class ThreadAsker:
    """Asks a policy in a thread of its own, one question at a time. A question that never returns ends with the
    program."""

    def __init__(self, policy: Answering) -> None:
        self._policy, self._outcome = policy, deque()

    def ask(self, observation: dict) -> None:
        """Returns at once."""
        threading.Thread(target=self._predict, args=(observation,), daemon=True).start()

    def answer(self) -> "Prediction | None":
        """The Prediction, or None while there is none; raises what the policy raised."""
        if not self._outcome:
            return None
        prediction, error = self._outcome.popleft()
        if error is not None:
            raise error
        return prediction

    def _predict(self, observation):
        try:
            self._outcome.append((self._policy.predict_detailed([observation]), None))
        except BaseException as error:
            self._outcome.append((None, error))


@dataclass(frozen=True)
class RobotOptions:
    """instruction: what to do. rate_hz: control steps a second, as in the training data. max_steps: so many, then end.
    settings, execution: see Splicer. snap_gripper: the last number of an action is -1 or +1. patience_s: an answer that
    takes longer ends the run; first_patience_s: the first one, which may compile."""

    instruction: str
    rate_hz: float
    max_steps: int
    settings: AgentSettings
    execution: str = SPLICE
    snap_gripper: bool = False
    patience_s: float = 3.0
    first_patience_s: float = 60.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_hz) and 0 < self.rate_hz <= 1000):
            raise BadInput(f"a robot's rate is above 0 and at most 1000 Hz, got {self.rate_hz}")
        if self.max_steps < 1:
            raise BadInput(f"a run has at least 1 step, got {self.max_steps}")
        if not (self.patience_s > 0 and self.first_patience_s > 0):
            raise BadInput(f"answers must be given more than 0 s, got {self.patience_s} and {self.first_patience_s}")


@dataclass
class RobotResult:
    """How a run went. done: nothing went wrong. reason: why it ended. Of its steps, `executed` were actions, of which
    `limited` were changed by the limits; in `holds` the robot held. Of the answers, `refused` were unreadable, `late`
    ones over before they came. missed: control steps that began late. delays: of the answers, in control steps."""

    done: bool = False
    reason: str = ""
    steps: int = 0
    executed: int = 0
    limited: int = 0
    holds: int = 0
    queries: int = 0
    refused: int = 0
    late: int = 0
    missed: int = 0
    delays: list = field(default_factory=list)


class _Stop(Exception):
    """The run ends here, and why."""


class RobotLoop:
    """One run of a policy on a robot.

    policy: has horizon, action_dim, views, proprio, resolution, pictures, rotations. asker: ask(observation) and
    answer(), as ThreadAsker. log: takes what was seen, said and done, and keeps it in memory; None: nothing is kept.
    BadInput: the limits are for other actions or rotations, or the policy cannot be executed so.
    """

    def __init__(
        self,
        robot: Robot,
        policy: Answering,
        asker: ThreadAsker,
        options: RobotOptions,
        limits: Limits,
        log: RobotLog | None = None,
        clock: Clock | None = None,
    ) -> None:
        if len(limits.low) != policy.action_dim:
            raise BadInput(f"limits: {len(limits.low)} numbers, but the policy's actions have {policy.action_dim}")
        check_execution(options.execution, policy)
        self._robot, self._policy, self._asker = robot, policy, asker
        self._limits = limits.of(policy.rotations)
        self._options, self._log, self._clock = options, log, clock or Clock()
        self._splicer = Splicer(policy.horizon, options.settings, options.execution, self._limits.rotations)
        gripper = ActionPart("gripper", 1, (-1.0, 1.0) if options.snap_gripper else None)
        self._parts = (ActionPart("others", policy.action_dim - 1), gripper)
        self._delays = deque(maxlen=DELAYS)
        self._numbers: Sequence[int] = ()  # of the last answer
        self._before: np.ndarray | None = None  # the last action, None: held
        self._refused_in_a_row = 0
        self.result = RobotResult()

    def run(self) -> RobotResult:
        """Until the steps are done or something goes wrong. However it ends, the robot holds. Raises what the robot
        raises, and BadInput where it does not show what the policy looks at."""
        result, period = self.result, 1 / self._options.rate_hz
        due, whole = self._clock.now(), False
        try:
            while result.steps < self._options.max_steps:
                self._step()
                result.steps += 1
                due += period
                now = self._clock.now()
                if now > due:  # never hurried after: the robot would be told several actions at once
                    result.missed += 1
                    due = now
                self._clock.wait_until(due)
            whole, result.reason = True, "all steps are done"
        except _Stop as stop:
            result.reason = str(stop)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to see
                self._robot.hold()
            raise
        self._robot.hold()
        result.done = whole
        return result

    def _step(self):
        observation = self._fitting(self._robot.observe())
        self._take_answer()
        if self._splicer.due(self._expected):
            self._ask(observation)
        action = self._splicer.next_action()
        if action is None:
            self._robot.hold()
            self._before = None
            self.result.holds += 1
            return
        action = snap(action, self._parts)
        allowed = self._limits.apply(action, self._last(observation))
        self._robot.act(allowed)
        self._before = allowed
        self.result.executed += 1
        self.result.limited += int((allowed != action).any())
        if self._log is not None:
            self._log.add_action(self.result.steps, observation, allowed)

    def _ask(self, observation):
        draft = rest_of(self._numbers, self._policy.horizon, self._splicer.position)
        question = observation | {"instruction": self._options.instruction, "draft": draft}
        question |= {"random_key": (0, self.result.queries)} | self._prefix(observation)
        self._asked_at, self._asked_step, self._question = self._clock.now(), self.result.steps, question
        self._asker.ask(question)
        self._splicer.ask()
        self.result.queries += 1

    def _prefix(self, observation):
        """{"prefix": the actions that will be executed until the answer is there}, as the limits let them through."""
        before, coming = self._last(observation), []
        for action in self._splicer.coming(self._expected):
            before = self._limits.apply(snap(action, self._parts), before)
            coming.append(before)
        return {"prefix": np.stack(coming)} if coming else {}

    def _last(self, observation):
        """(A,) what the next action's change is measured from."""
        return self._limits.at_rest(observation["proprio"]) if self._before is None else self._before

    @property
    def _expected(self):
        """Control steps that the next answer will probably take."""
        return max(self._delays, default=0)

    def _take_answer(self):
        """Splice in what has come. _Stop: nothing for too long, or nothing that could be executed."""
        if not self._splicer.asked:
            return
        try:
            prediction = self._asker.answer()
        except BadInput:
            raise
        except Exception as error:
            raise _Stop(f"the policy does not answer: {type(error).__name__}: {error}") from error
        first = self.result.queries == 1
        if prediction is None:
            patience_s = self._options.first_patience_s if first else self._options.patience_s
            if self._clock.now() - self._asked_at > patience_s:
                raise _Stop(f"an answer takes longer than {patience_s:g} s")
            return
        delay = self.result.steps - self._asked_step
        if len(self.result.delays) == 1:
            self._delays.clear()  # the first answer warms up, it is no measure for the others
        self._delays.append(delay)
        self.result.delays.append(delay)
        if self._log is not None:
            self._log.add_answer(self._asked_step, self.result.steps, self._question, prediction)
        self._use(prediction)

    def _use(self, prediction):
        chunk = prediction.chunk[0]
        # Numbers that had to be guessed, because the text could not be read or was too short, move no arm.
        if not prediction.valid[0] or prediction.repaired[0] or not np.isfinite(chunk).all():
            self._splicer.forget()
            self._numbers = ()
            self.result.refused += 1
            self._refused_in_a_row += 1
            if self._refused_in_a_row == MAX_REFUSED:
                raise _Stop(f"{MAX_REFUSED} answers one after the other cannot be executed")
            return
        self._refused_in_a_row = 0
        if self._splicer.add_chunk(chunk):
            self._numbers = prediction.numbers[0] if prediction.numbers else ()
        else:
            self._numbers = ()
            self.result.late += 1

    def _fitting(self, observation):
        """The robot's observation in the policy's names and resolution."""
        views = _named(observation["views"], self._policy.views, "view")
        proprio = observation.get("proprio", {})
        given = {name: np.asarray(values, np.float64) for name, values in proprio.items()}
        wanted = _named(given, self._policy.proprio, "part of the robot's state")
        small = {name: _shrunk(picture, self._side(name), name) for name, picture in views.items()}
        return {"views": small, "proprio": given | wanted}

    def _side(self, view):
        """Pixels of the shorter side of a camera's pictures in training."""
        pictures = self._policy.pictures
        return min(pictures["cameras"][view]) if pictures else self._policy.resolution


def _named(there: dict, wanted: Iterable[str], what: str) -> dict:
    """Those of `wanted`; the robot may leave out what stands before the last dot: "front" for "observation.front"."""
    found = {name: there.get(name, there.get(name.rpartition(".")[2])) for name in wanted}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise BadInput(f"the robot shows no {what} {missing[0]!r}; it has {', '.join(there) or 'none'}")
    return found


def picture_remark(robot: Robot, policy: Answering) -> str:
    """Looks once: what somebody should know before the robot moves, where its pictures have another shape than those of
    training. "": nothing. BadInput: it does not show what the policy looks at. Raises what the robot raises."""
    views = _named(robot.observe()["views"], policy.views, "view")
    shown = {name: _size(picture, name) for name, picture in views.items()}
    return shape_remark(policy.pictures, shown, "the robot") if policy.pictures else ""


def _size(picture, view):
    """(height, width)"""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise BadInput(f"view {view}: a picture is (H, W, 3) uint8, not {getattr(picture, 'shape', type(picture))}")
    return picture.shape[:2]


def _shrunk(picture, side, view):
    """A picture whose shorter side is no longer than `side`, that of the training data's: less to send, and as fine as
    they were. What becomes of another shape than theirs is the policy's to say (IMAGE.FIT)."""
    height, width = _size(picture, view)
    share = side / min(height, width)
    if share >= 1:
        return picture
    import cv2

    return cv2.resize(picture, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA)
