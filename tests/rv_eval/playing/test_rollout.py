import json
import os
import time
import zlib

import h5py
import pytest

from libs.errors import BadInput
from rv_eval.agent import AgentSettings
from rv_eval.envs.base import CannotStart, Episode, WorkerFailure
from rv_eval.playing.rollout import MAX_INCIDENTS, Rollout, SimulatorGaveUp
from tests.rv_eval.fakes import VIEWS, FakeEnv, FakePolicy, FakeTask

TASK = FakeTask()


def episode(goal, task=TASK):
    """Succeeds after `goal` steps; never if that is beyond the limit."""
    return Episode(task, init_state=goal, seed=7, max_steps=task.max_steps)


class Factory:
    """Makes FakeEnvs; the i-th one has the i-th trouble of the list (an exception: it is raised), later ones none."""

    def __init__(self, *troubles):
        self.troubles = list(troubles)
        self.envs = []

    def __call__(self, task):
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, Exception):
            raise trouble
        self.envs.append(FakeEnv(task, trouble))
        return self.envs[-1]


def by_goal(results):
    return {result.episode.init_state: result for result in results}


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n_action_steps", [0, 1, 3])
def test_successes_and_steps(num_envs, n_action_steps):
    factory = Factory()
    policy = FakePolicy()
    rollout = Rollout(policy, factory, AgentSettings(n_action_steps=n_action_steps), num_envs)
    results = by_goal(rollout.run([episode(goal) for goal in (1, 5, 20, 21, 8)]))
    assert {goal: (r.success, r.steps) for goal, r in results.items()} == {
        1: (True, 1),
        5: (True, 5),
        8: (True, 8),
        20: (True, 20),
        21: (False, 20),
    }
    per_query = n_action_steps or policy.horizon
    assert all(r.queries == -(-r.steps // per_query) for r in results.values())
    assert all(r.parse_failures == 1 for r in results.values())  # the fake's answer at step 0 is invalid
    assert all(r.incidents == [] and r.wall_s >= r.sim_s > 0 for r in results.values())
    assert len(factory.envs) == num_envs, "an environment serves many episodes of its task"
    if num_envs == 1:
        assert set(policy.batches) == {1}


class SlowPolicy(FakePolicy):
    def predict_detailed(self, observations):
        time.sleep(0.2)  # longer than fake steps take: all the others come to wait
        return super().predict_detailed(observations)


def test_observations_wait_for_company():
    policy = SlowPolicy()
    list(Rollout(policy, Factory(), AgentSettings(), 4).run([episode(20) for _ in range(4)]))
    # The first call knows of no cost yet and goes ahead. From then on they wait for each other.
    assert sum(policy.batches) == 4 * 5 and len(policy.batches) <= 8


def test_a_call_takes_no_more_than_its_rows():
    policy = SlowPolicy()
    policy.batch_rows = 2
    list(Rollout(policy, Factory(), AgentSettings(), 4).run([episode(8) for _ in range(4)]))
    assert max(policy.batches) == 2


def test_nobody_waits_long_for_a_simulator_that_starts():
    """A new environment takes seconds; the others are answered meanwhile."""
    policy = FakePolicy()

    def make_env(task):
        return FakeEnv(task, {0: "slow"} if task.task_id else None)

    tasks = [FakeTask(task_id=i) for i in range(2)]
    results = list(Rollout(policy, make_env, AgentSettings(), 2).run([episode(20, task) for task in tasks]))
    assert [result.episode.task.task_id for result in results] == [0, 1]
    assert results[0].wall_s < 1.5 < results[1].wall_s and set(policy.batches) == {1}


def test_pictures_only_where_they_are_used():
    factory = Factory()
    (result,) = Rollout(FakePolicy(), factory, AgentSettings()).run([episode(21)])
    # The reset, then after every fourth action but the last, which no query follows.
    expected = [VIEWS] + [VIEWS if step % 4 == 0 and step < 20 else () for step in range(1, 21)]
    assert factory.envs[0].rendered == expected
    assert result.frames is None


def test_video_has_its_own_rate():
    factory = Factory()
    (result,) = Rollout(FakePolicy(), factory, AgentSettings(), video_every=2).run([episode(6)])
    assert factory.envs[0].rendered[:5] == [VIEWS, (), ("agentview",), (), VIEWS]
    shown = [(step, views["agentview"][0, 0, 0], views["eye_in_hand"][0, 0, 0]) for step, views in result.frames]
    assert shown == [(0, 0, 0), (2, 2, 0), (4, 4, 4), (6, 6, 4)]


@pytest.mark.parametrize("trouble", ["crash", "hang"])
@pytest.mark.parametrize("num_envs", [1, 2])
def test_crash_and_hang_repeat_the_episode(trouble, num_envs):
    factory = Factory({6: trouble})
    # Generous, so that a busy machine is not taken for a hang
    timeout_s = 60.0 if trouble == "crash" else 2.0
    rollout = Rollout(FakePolicy(), factory, AgentSettings(), num_envs, timeout_s=timeout_s)
    results = by_goal(rollout.run([episode(10), episode(12), episode(3)]))
    assert {goal: (r.success, r.steps) for goal, r in results.items()} == {
        10: (True, 10),
        12: (True, 12),
        3: (True, 3),
    }
    assert sum(len(r.incidents) for r in results.values()) == 1
    expected = "gone" if trouble == "crash" else "no answer within 2 s"
    assert results[10].incidents == [expected]
    assert len(factory.envs) == num_envs + 1
    assert all(not _alive(env.pid) for env in factory.envs)


def test_trouble_at_the_start_repeats_too():
    factory = Factory(WorkerFailure("cannot start"), {0: "crash"})
    (result,) = Rollout(FakePolicy(), factory, AgentSettings()).run([episode(3)])
    assert result.success and result.incidents == ["cannot start", "gone"]


def test_a_simulator_that_cannot_start_is_bad_input_until_one_has_started():
    factory = Factory(CannotStart("no context"), CannotStart("no context"))
    with pytest.raises(BadInput, match="the simulator cannot be started: no context"):
        list(Rollout(FakePolicy(), factory, AgentSettings(), 2).run([episode(3), episode(5)]))
    assert not factory.envs
    factory = Factory({3: "crash"}, CannotStart("no context"))
    (result,) = Rollout(FakePolicy(), factory, AgentSettings()).run([episode(6)])
    assert result.success and result.incidents == ["gone", "no context"]


def test_gives_up_after_too_many_incidents():
    """What can be played is played all the same."""
    factory = Factory(*[{2: "crash"}] * (MAX_INCIDENTS + 1))
    results = []
    with pytest.raises(SimulatorGaveUp, match=r"^fake task 0 init state 5: the simulator failed 4 times, last: gone$"):
        results.extend(Rollout(FakePolicy(), factory, AgentSettings()).run([episode(5), episode(6)]))
    assert len(factory.envs) == MAX_INCIDENTS + 2
    assert [result.episode.init_state for result in results] == [6]


def test_crash_after_the_success_costs_only_the_environment():
    # Success at step 1; the actions 2 to 4 were sent already, and the environment dies on them.
    factory = Factory({3: "crash"})
    results = by_goal(Rollout(FakePolicy(), factory, AgentSettings()).run([episode(1), episode(7)]))
    assert results[1].success and results[1].incidents == []
    assert results[7].success


def test_environments_are_recycled():
    factory = Factory()
    results = list(Rollout(FakePolicy(), factory, AgentSettings(), recycle_after=2).run(map(episode, (2, 3, 4, 5, 6))))
    assert [r.steps for r in results] == [2, 3, 4, 5, 6] and not any(r.incidents for r in results)
    assert len(factory.envs) == 3 and all(not _alive(env.pid) for env in factory.envs)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_random_keys_name_the_query_and_nothing_else(num_envs):
    """Sampling is seeded with them: the same keys alone, beside others, or when an episode is repeated."""
    policy = FakePolicy()
    factory = Factory({6: "crash"})
    list(Rollout(policy, factory, AgentSettings(), num_envs).run(map(episode, (7, 9, 3))))
    suite = zlib.crc32(b"fake")
    queries = [(7, suite, 0, goal, query) for goal, count in ((7, 2), (9, 3), (3, 1)) for query in range(count)]
    assert set(policy.random_keys) == set(queries)


def test_trace_holds_what_was_seen_answered_and_done(tmp_path):
    settings = AgentSettings(n_action_steps=2, ensemble_size=2)
    (result,) = Rollout(FakePolicy(), Factory(), settings, keep_trace=True).run([episode(5)])
    path = tmp_path / "episode.hdf5"
    result.trace.write(path, {"steps": result.steps, "success": True})
    assert list(tmp_path.iterdir()) == [path]
    with h5py.File(path) as file:
        assert json.loads(file.attrs["record"])["success"]
        assert file["query_step"][:].tolist() == [0, 2, 4]
        assert file["chunks"].shape == (3, 4, 7) and file["chunks"][1, :, 0].tolist() == [2, 3, 4, 5]
        assert [text.decode() for text in file["texts"]] == ["from 0", "from 2", "from 4"]
        assert file["valid"][:].tolist() == [False, True, True] and not file["repaired"][:].any()
        # The success came after five actions; the sixth had been sent already.
        assert file["actions"][:, 0].tolist() == [0, 1, 2, 3, 4] and set(file["actions"][:, 6]) == {-1}
        assert file["proprio/robot_states"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert set(file["views"]) == set(VIEWS)
        assert file["views/agentview"].shape == (3, 8, 8, 3) and file["views/agentview"][2].max() == 4


def test_another_task_gets_another_environment():
    tasks = [FakeTask(task_id=i) for i in range(2)]
    episodes = [episode(goal, task) for goal in (2, 3) for task in tasks]
    factory = Factory()
    results = list(Rollout(FakePolicy(), factory, AgentSettings()).run(episodes))
    assert [(r.episode.task.task_id, r.steps) for r in results] == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert [env.task.task_id for env in factory.envs] == [0, 1], "a slot stays with its task while it can"


def test_environments_spread_over_tasks():
    tasks = [FakeTask(task_id=i) for i in range(3)]
    episodes = [episode(goal, task) for task in tasks for goal in (2, 3)]
    factory = Factory()
    results = list(Rollout(FakePolicy(), factory, AgentSettings(), num_envs=2).run(episodes))
    assert len(results) == 6 and all(r.success for r in results)
    assert [env.task.task_id for env in factory.envs[:3]] == [0, 1, 2]


def test_environments_close_when_the_caller_stops_early():
    factory = Factory()
    results = Rollout(FakePolicy(), factory, AgentSettings(), 2).run([episode(3)] * 5)
    next(results)
    results.close()
    assert factory.envs and all(not _alive(env.pid) for env in factory.envs)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_envs"):
        Rollout(FakePolicy(), Factory(), AgentSettings(), num_envs=0)
    with pytest.raises(ValueError, match="action horizon 9"):
        Rollout(FakePolicy(), Factory(), AgentSettings(n_action_steps=9))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
