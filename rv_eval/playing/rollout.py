"""Many episodes at once: simulator processes step on their own, one policy answers whatever waits for it.

The simulators run the actions of a chunk while the policy works on another picture. Cameras are on only for
the steps whose pictures somebody looks at: the policy at each query, the video at its own rate.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from libs.errors import BadInput
from rv_eval.agent import AgentSettings, Answering, ChunkAgent
from rv_eval.envs.base import CannotStart, Environment, Episode, Task, WorkerFailure
from rv_eval.playing.episode import Attempt, EpisodeResult
from rv_eval.playing.trace import EpisodeTrace
from rv_eval.playing.video import EpisodeFrames

MAX_INCIDENTS = 3  # crashes and hangs of one episode that are made good by repeating it
MAX_PATIENCE_S = 1.0  # the call before may have taken minutes, to compile for instance
START_TIMEOUT_S = 180.0  # a new environment's first reply may take so much longer


class SimulatorGaveUp(RuntimeError):
    """Some episodes could not be played: their simulators failed every time. The others are done."""


class Rollout:
    """Plays episodes with one policy in several environments.

    policy: has `horizon`, `views`, `batch_rows` and `predict_detailed(observations)`.
    make_env: task -> Environment; called again for another task and after a WorkerFailure.
    settings: how chunks are executed.
    num_envs: environments alive at the same time.
    video_every: steps between two frames of the video (EpisodeResult.frames); 0 takes no pictures for it.
    keep_trace: collect everything about an episode (EpisodeResult.trace).
    timeout_s: a request that takes longer is a hang.
    recycle_after: episodes after which an environment is replaced: renderers wear out.
    make_agent: (horizon, settings, actions) -> what turns answers into actions, for each episode: a ChunkAgent, or what
        has its methods.
    """

    def __init__(
        self,
        policy: Answering,
        make_env: Callable[[Task], Environment],
        settings: AgentSettings,
        num_envs: int = 1,
        video_every: int = 0,
        keep_trace: bool = False,
        timeout_s: float = 120.0,
        recycle_after: int = 50,
        make_agent: Callable[..., Any] = ChunkAgent,
    ) -> None:
        if num_envs < 1:
            raise BadInput(f"num_envs must be at least 1, got {num_envs}")
        if recycle_after < 1:
            raise BadInput(f"environments must play at least 1 episode, got {recycle_after}")
        if not timeout_s > 0:
            raise BadInput(f"a request must be given more than 0 s, got {timeout_s}")
        if video_every < 0:
            raise BadInput(f"video_every must not be negative, got {video_every}")
        self.policy = policy
        self.make_env = make_env
        self.settings = settings.resolve(policy.horizon)
        self.num_envs = num_envs
        self.video_every = video_every
        self.keep_trace = keep_trace
        self.timeout_s = timeout_s
        self.recycle_after = recycle_after
        self.make_agent = make_agent
        self._call_s = 0.0  # what the last call of the policy took

    def run(self, episodes: Iterable[Episode]) -> Iterator[EpisodeResult]:
        """Results in the order in which episodes end. SimulatorGaveUp, after all others: an episode's environment
        failed again and again. BadInput: environments cannot be started here, none has answered yet. Closes every
        environment when it ends, however it ends."""
        self._given_up = []
        self._proven = False  # environments can be started here
        pending = deque(EpisodeResult(episode) for episode in episodes)
        slots = [_Slot() for _ in range(min(self.num_envs, len(pending)))]
        try:
            while pending or any(slot.attempt for slot in slots):
                for slot in slots:
                    if pending and not slot.attempt:
                        self._start_episode(slot, slots, pending)
                yield from self._receive(slots, pending)
                if self._patience_s(slots) <= 0.0:
                    self._query(slots, pending)
        finally:
            for slot in slots:
                slot.close()
        if self._given_up:
            raise SimulatorGaveUp("; ".join(self._given_up))

    def _start_episode(self, slot, slots, pending):
        others = [other.env.task for other in slots if other is not slot and other.env]
        before = _take_job(pending, slot.env and slot.env.task, others)
        result = EpisodeResult(
            before.episode,
            incidents=before.incidents,
            trace=EpisodeTrace() if self.keep_trace else None,
        )
        try:
            slot.prepare(self.make_env, result.episode.task, self.recycle_after)
            about = slot.env.description
            agent = self.make_agent(self.policy.horizon, self.settings, about.actions, rotations=self.policy.rotations)
            if self.video_every:
                result.frames = EpisodeFrames(self.video_every, about.control_hz)
            slot.begin(Attempt(slot.env, agent, result, tuple(self.policy.views)))
        except WorkerFailure as error:
            self._incident(slot, error, pending, result)

    def _receive(self, slots, pending):
        """Take the replies that are there; wait for the first of them as long as `_patience_s` says."""
        busy = [slot for slot in slots if slot.outstanding]
        if not busy:
            return
        silence_ends = min(slot.silence_ends(self.timeout_s) for slot in busy)
        ready: list[Any] = wait(busy, max(0.0, min(silence_ends - time.monotonic(), self._patience_s(slots))))
        if not ready:
            self._replace_hanging(busy, pending)
        for slot in ready:
            try:
                result = slot.receive()
            except WorkerFailure as error:
                self._incident(slot, error, pending)
            else:
                self._proven = True
                if result is not None:
                    yield result

    def _patience_s(self, slots: "Sequence[_Slot]") -> float:
        """How long the policy is not to be asked yet.

        A call costs the same for one observation as for `batch_rows` of them. So those that wait, wait for company, but
        no longer than a call takes: neither waiting nor calls of few can then cost twice what the better choice costs.
        """
        waiting = [slot for slot in slots if slot.waits_for_policy]
        if not waiting:
            return math.inf
        others_play = any(slot.attempt and not slot.waits_for_policy for slot in slots)
        if len(waiting) >= self.policy.batch_rows or not others_play:
            return 0.0
        patience_s = min(self._call_s, MAX_PATIENCE_S)
        return min(slot.attempt.arrived for slot in waiting if slot.attempt) + patience_s - time.monotonic()

    def _replace_hanging(self, busy, pending):
        for slot in busy:
            if time.monotonic() >= slot.silence_ends(self.timeout_s):
                error = WorkerFailure(f"no answer within {self.timeout_s:g} s")
                self._incident(slot, error, pending)

    def _query(self, slots, pending):
        """One call of the policy, for those that wait longest."""
        waiting = [slot for slot in slots if slot.waits_for_policy]
        waiting = sorted(waiting, key=lambda slot: slot.attempt.arrived)[: self.policy.batch_rows]
        start = time.monotonic()
        prediction = self.policy.predict_detailed([slot.attempt.observation for slot in waiting])
        self._call_s = time.monotonic() - start
        share = self._call_s / len(waiting)
        for row, slot in enumerate(waiting):
            try:
                slot.answer(prediction, row, share)
            except WorkerFailure as error:
                self._incident(slot, error, pending)

    def _incident(self, slot, error, pending, result=None):
        """Give up the environment; repeat its episode, if one was running. BadInput: no other would start either."""
        if isinstance(error, CannotStart) and not self._proven:
            raise BadInput(f"the simulator cannot be started: {error}") from error
        if slot.attempt is not None:
            result = slot.attempt.result
        slot.close()
        if result is None:
            return
        result.incidents.append(str(error))
        episode = result.episode
        if len(result.incidents) > MAX_INCIDENTS:
            self._given_up.append(
                f"{episode.task.suite} task {episode.task.task_id} init state {episode.init_state}: "
                f"the simulator failed {len(result.incidents)} times, last: {error}"
            )
            return
        pending.appendleft(result)


class _Slot:
    """A place for one environment and the episode it plays. Actions that were sent beyond a success are
    answered too: those replies are stale and dropped."""

    def __init__(self):
        self.env: Environment | None = None
        self.attempt: Attempt | None = None
        self.outstanding = 0  # replies to come
        self._played = 0  # episodes of this environment
        self._heard = 0.0  # when the environment last said something, or was asked after a silence
        self._is_new = False  # the environment has not said anything yet
        self._stale = 0  # the first so many of them belong to an episode that is over

    def close(self):
        """Give up the environment and whatever it was doing."""
        if self.env is not None:
            self.env.close()
        self.env = self.attempt = None
        self.outstanding = self._stale = 0

    @property
    def waits_for_policy(self) -> bool:
        return self.attempt is not None and self.attempt.observation is not None

    def prepare(self, make_env, task, recycle_after):
        if self.env is None or self.env.task != task or self._played >= recycle_after:
            self.close()
            self.env = make_env(task)
            self._is_new = True
            self._played = 0

    def begin(self, attempt):
        self.attempt = attempt
        self._played += 1
        self._expect(attempt.begin())

    def answer(self, prediction, row, policy_s):
        assert self.attempt is not None, "who waits plays"
        self._expect(self.attempt.answer(prediction, row, policy_s))

    def _expect(self, replies):
        if not self.outstanding:
            self._heard = time.monotonic()
        self.outstanding += replies

    def silence_ends(self, timeout_s: float) -> float:
        """The time from which on no reply means that the environment hangs."""
        return self._heard + timeout_s + (START_TIMEOUT_S if self._is_new else 0.0)

    def fileno(self) -> int:
        assert self.env is not None, "who is waited for has one"
        return self.env.fileno()

    def receive(self) -> EpisodeResult | None:
        """Read one reply; returns the result if it ended the episode."""
        assert self.env is not None, "who is asked has one"
        reply = self.env.receive()
        self._heard = time.monotonic()
        self._is_new = False
        if reply is None:
            return None
        self.outstanding -= 1
        if self._stale:
            self._stale -= 1
            return None
        assert self.attempt is not None, "who is asked plays"
        if not self.attempt.take(reply):
            return None
        result, self.attempt = self.attempt.result, None
        self._stale = self.outstanding
        return result


def _take_job(pending, own_task, other_tasks):
    """The next episode: of the task that the environment holds already, else of one that no other environment
    holds (making an environment takes longer than many an episode), else the first."""

    def cost(i):
        task = pending[i].episode.task
        return (task != own_task, task in other_tasks)

    best = min(range(len(pending)), key=cost)
    result = pending[best]
    del pending[best]
    return result
