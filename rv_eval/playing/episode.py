"""One episode: what is written down about it, and one try at it in one environment."""

import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rv_eval.agent import ChunkAgent
from rv_eval.envs.base import Environment, Episode, Reply
from rv_eval.playing.trace import EpisodeTrace
from rv_eval.playing.video import EpisodeFrames

if TYPE_CHECKING:
    from rv_train.policies.base import Prediction


@dataclass
class EpisodeResult:
    """How an episode went. tokens: of all answers, written in `passes` of the model. Times in seconds: policy_s is its
    share of the batches it was in, sim_s from requests to the simulator until their answers, wall_s from the reset to
    the end; the start of a simulator counts for its first episode. incidents: what went wrong before this try. facts:
    what the simulator told besides success, see Reply."""

    episode: Episode
    success: bool = False
    steps: int = 0
    queries: int = 0
    parse_failures: int = 0
    repaired: int = 0
    tokens: int = 0
    passes: int = 0
    policy_s: float = 0.0
    sim_s: float = 0.0
    wall_s: float = 0.0
    incidents: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    frames: EpisodeFrames | None = field(default=None, repr=False)
    trace: EpisodeTrace | None = field(default=None, repr=False)


class Attempt:
    """One try at an episode in one environment: what was sent, what came back."""

    def __init__(self, env: Environment, agent: ChunkAgent, result: EpisodeResult, views: tuple[str, ...]) -> None:
        self.env, self.agent, self.result, self.views = env, agent, result, views
        self.observation: dict | None = None  # waits for the policy ...
        self.arrived = 0.0  # ... since then
        self._settled = False
        self._sent = 0  # actions
        self._started = self._asked = time.monotonic()

    def begin(self) -> int:
        """Returns how many replies to expect."""
        self.env.begin(self.result.episode, self.views)
        return 1

    def answer(self, prediction: "Prediction", row: int, policy_s: float) -> int:
        """Execute row `row` of a Prediction for the observation that waited; returns how many replies to expect.

        policy_s: seconds it cost.
        """
        assert self.observation is not None, "what waits is answered"
        result = self.result
        result.queries += 1
        result.policy_s += policy_s
        result.parse_failures += int(not prediction.valid[row])
        result.repaired += int(prediction.repaired[row])
        tokens, passes = prediction.writing(row)
        result.tokens += tokens
        result.passes += passes
        if result.trace:
            result.trace.add_query(self._sent, self.observation, prediction, row)
        self.agent.add_answer(prediction, row)
        self.observation = None
        return self._execute()

    def _execute(self) -> int:
        """Send the actions that the agent has; returns how many."""
        self._asked = time.monotonic()
        before = self._sent
        while not self.agent.needs_observation and self._sent < self.result.episode.max_steps:
            action = self.agent.next_action()
            self._sent += 1
            self.env.act(action, self._views_after(self._sent))
            if self.result.trace:
                self.result.trace.add_action(action)
        return self._sent - before

    def _views_after(self, step):
        if self.agent.needs_observation and step < self.result.episode.max_steps:
            return self.views
        return self.result.frames.views_at(step) if self.result.frames else ()

    def take(self, reply: Reply) -> bool:
        """Book a reply; True once the episode is over."""
        result = self.result
        if self._settled:
            result.steps += 1
            result.success = reply.success
        self._settled = True
        result.facts = reply.facts
        if result.frames:
            result.frames.add(result.steps, reply.observation["views"])
        if result.trace:
            result.trace.add_proprio(reply.observation)
        over = result.success or result.steps == result.episode.max_steps
        if over or result.steps == self._sent:
            result.sim_s += time.monotonic() - self._asked
        if over:
            result.wall_s = time.monotonic() - self._started
        elif result.steps == self._sent:
            asked = {"instruction": result.episode.instruction}
            told = {"random_key": self._random_key()} | self.agent.told()
            self.observation = reply.observation | asked | told
            self.arrived = time.monotonic()
        return over

    def _random_key(self) -> tuple[int, ...]:
        """What a policy that samples seeds its noise with: the same for this query however the evaluation is run."""
        episode, task = self.result.episode, self.result.episode.task
        suite = zlib.crc32(task.suite.encode())
        return (episode.seed, suite, task.task_id, episode.init_state, self.result.queries)
