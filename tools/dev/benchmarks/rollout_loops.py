"""Two ways to play the same episodes: the plain loop everyone writes, and rv_eval's rollout, simulators kept alive."""

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from libs.libero_sim import VIEWS, init_states
from libs.robosuite_sim import SETTLE_ACTION, SimProcess
from rv_eval.agent import AgentSettings
from rv_eval.envs.base import Episode, WorkerFailure
from rv_eval.envs.libero import LiberoEnvironment
from rv_eval.playing.rollout import Rollout
from tools.dev.benchmarks.clock import CpuMeter, PhaseClock, add_phases
from tools.dev.benchmarks.timed_env import TimedEnv

if TYPE_CHECKING:
    from libs.libero_sim.suites import LiberoTask
    from libs.robosuite_sim.remote import RemoteObject
    from rv_eval.policy import Policy


def load_policy(
    model_path: Path | str, device: str | None, torch_compile: bool, batch_rows: int, clock: PhaseClock
) -> "Policy":
    """A Policy whose phases `clock` counts: "encode" (crop, tokenize), "vision", "prefill" (the prompt), "decode" (the
    answer, token by token) and "policy" (all other parts of an answer)."""
    import torch

    from rv_eval.policy import Policy

    if device == "cpu":
        torch.set_num_threads(1)  # the faster setting for both loops, measured
    policy = Policy.from_checkpoint(model_path, device, torch_compile, batch_rows)
    model: Any = policy.model  # a TextPolicy
    backbone = model.backbone.model
    for owner, method, phase in (
        (policy, "predict_detailed", "policy"),
        (policy.encoder, "encode", "encode"),
        (policy.encoder, "collate", "encode"),
        (backbone.visual, "forward", "vision"),
        (model.decoder, "prefill", "prefill"),
        (model.decoder, "generate", "decode"),
    ):
        clock.watch(owner, method, phase)
    return policy


def first_answer(policy: "Policy", instruction: str) -> float:
    """Seconds until the policy has answered a blank observation: what happens only once (compilation) and an answer."""
    size = policy.resolution
    views = {view: np.zeros((size, size, 3), np.uint8) for view in policy.views}
    proprio = {part: np.zeros(count, np.float32) for part, count in policy.proprio.items()}
    start = time.perf_counter()
    policy.predict([{"views": views, "proprio": proprio, "instruction": instruction}])
    return time.perf_counter() - start


class PlainLoop:
    """One environment as it comes, one episode after the other, both cameras in every step, one observation per query.

    Lives in a process of its own (RemoteObject), so that its CPU seconds and threads are its own.
    """

    def __init__(
        self,
        task: "LiberoTask",
        render: str,
        resolution: int,
        model_path: Path | str,
        device: str | None,
        torch_compile: bool,
    ) -> None:
        self.env = TimedEnv(task, resolution, render)
        self.env.as_it_comes()
        self.policy = load_policy(model_path, device, torch_compile, 1, self.env.clock)
        self.init_states = init_states(task)

    def first_answer(self, instruction: str) -> float:
        return first_answer(self.policy, instruction)

    def play(self, episodes: Sequence[Episode], n_action_steps: int, hard_reset: bool) -> list[dict]:
        """Results of the episodes, with their seconds and phases."""
        self.env.set_hard_reset(hard_reset)
        self.env.take_phases()
        results = []
        for episode in episodes:
            start = time.perf_counter()
            result = self._play(episode, n_action_steps)
            wall = time.perf_counter() - start
            results.append({**result, "incidents": 0, "wall_s": wall, "phases": self.env.take_phases()})
        return results

    def _play(self, episode, n_action_steps):
        env, actions = self.env, deque()
        success, steps, queries = False, 0, 0
        observation = env.reset(episode.seed, self.init_states[episode.init_state], VIEWS)
        for _ in range(episode.num_settle_steps):
            observation, _ = env.step(SETTLE_ACTION, VIEWS)
        while not success and steps < episode.max_steps:
            if not actions:
                chunk = self.policy.predict([observation])[0]  # (H, A)
                actions.extend(chunk[:n_action_steps].astype(np.float64))
                queries += 1
            action = actions.popleft()
            action[-1] = 1.0 if action[-1] > 0 else -1.0
            observation, success = env.step(action, VIEWS)
            steps += 1
        return {"init_state": episode.init_state, "success": success, "steps": steps, "queries": queries}

    def close(self) -> None:
        self.env.close()


class OurLoop:
    """rv_eval's Rollout with `num_envs` simulators that outlive it, in this process."""

    def __init__(
        self, policy: "Policy", clock: PhaseClock, task: "LiberoTask", render: str, resolution: int, num_envs: int
    ) -> None:
        self.policy, self.clock = policy, clock
        self.idle = []
        self._make = lambda task: KeptEnv(task, resolution, render, self.idle)
        self.envs = [self._make(task) for _ in range(num_envs)]
        for env in self.envs:
            env.wait_until_ready()
        self.idle += self.envs

    def play(self, episodes: Sequence[Episode], n_action_steps: int) -> dict:
        """{"episodes": results, "wall_s", "cpu_s", "others_cpu_s", "phases": of all of them together}"""
        self._take_phases()
        rollout = Rollout(self.policy, self._take_env, AgentSettings(n_action_steps), len(self.envs))
        simulators = {f"simulator {number}": env.pid for number, env in enumerate(self.envs, start=1)}
        meter = CpuMeter({"policy": os.getpid(), **simulators})
        results = [_as_dict(result) for result in rollout.run(episodes)]  # in the order in which they end
        return {"episodes": results, **meter.read(), "phases": self._take_phases()}

    def _take_env(self, task):
        return self.idle.pop() if self.idle else self._make(task)

    def close(self) -> None:
        for env in self.envs:
            env.close_for_good()

    def _take_phases(self):
        return add_phases([self.clock.take(), *(env.take_phases() for env in self.envs)])


class _TimedProcess(SimProcess):
    FACTORY = "tools.dev.benchmarks.timed_env:TimedEnv"


class KeptEnv(LiberoEnvironment):
    """An environment that puts itself into `idle` when a rollout is done with it."""

    def __init__(self, task: "LiberoTask", resolution: int, render: str, idle: "list[KeptEnv]") -> None:
        super().__init__(task, resolution, render)
        self._idle = idle

    def start(self, task: "LiberoTask", resolution: int, render: str) -> "RemoteObject":
        return _TimedProcess(task, resolution, render)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        self._process.call("take_phases")

    def take_phases(self) -> dict[str, dict[str, float]]:
        return self._process.call("take_phases")

    def close(self) -> None:
        """Answer what was asked for, so that the next rollout finds it quiet; end it where that fails."""
        try:
            while self._unanswered:
                self.receive()
        except WorkerFailure:
            self.close_for_good()
        else:
            self._idle.append(self)

    def close_for_good(self) -> None:
        super().close()


def _as_dict(result):
    return {
        "init_state": result.episode.init_state,
        "success": result.success,
        "steps": result.steps,
        "queries": result.queries,
        "incidents": len(result.incidents),
        "wall_s": result.wall_s,
        "policy_s": result.policy_s,
        "sim_s": result.sim_s,
    }
