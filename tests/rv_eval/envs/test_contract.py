"""What is asked of every simulator: each that is registered, the toy of this folder, and the fakes of other tests.

A new one is tested by its line in rv_eval/envs/__init__.py: `pytest tests/rv_eval/envs -k NAME`.
"""

import argparse
import json
from multiprocessing.connection import wait

import numpy as np
import pytest

from rv_eval.envs import SIMULATORS, get_simulator
from rv_eval.envs.base import Environment, Episode, Simulator
from tests.rv_eval.envs.elsewhere import box
from tests.rv_eval.envs.toy import ToySimulator
from tests.rv_eval.fakes import FakeSimulator

# Arguments that choose a few tasks, of simulators that want to be told; the others' parsers get nothing.
CHOICE = {"libero": ["--task_suite", "libero_object", "--task_ids", "5", "0"]}
# A setting that the simulator knows, where it does not know "fast".
RENDER = {"toy": "plain", "box": "plain"}
# Packages that a simulator's tests are skipped without, none where nothing is told. stack tells libero's version.
PACKAGES = {"libero": ["libero"], "stack": ["robosuite", "libero"]}
HERE = {"toy": ToySimulator, "fake": FakeSimulator, "box": box}
R = 32  # pixels
START_S = 180  # an environment may take so long until its first reply


def named(name):
    taken = set(SIMULATORS) & set(HERE)
    assert not taken, f"{taken}: these tests have simulators of that name, and would test those; call it otherwise"
    return HERE[name]() if name in HERE else get_simulator(name)


def tasks_of(simulator):
    parser = argparse.ArgumentParser()
    simulator.add_task_arguments(parser.add_argument)
    return simulator.choose_tasks(parser.parse_args(CHOICE.get(simulator.description.name, [])))


def registered(*marks):
    """What is in the registry, marked, as parameters."""
    for name in SIMULATORS:
        needed = PACKAGES.get(name, [])
        libero = [pytest.mark.libero] if "libero" in needed else []  # which is hidden from all others
        yield pytest.param(name, marks=[*marks, *libero, pytest.mark.package(*needed)])


@pytest.fixture(params=[*registered(), *HERE])
def simulator(request):
    return named(request.param)


@pytest.fixture(scope="module", params=[*registered(pytest.mark.sim), *HERE])
def running(request):
    """A simulator and an environment of its first task."""
    simulator = named(request.param)
    simulator.prepare()
    env = simulator.make(tasks_of(simulator)[0], R, RENDER.get(request.param, "fast"))
    yield simulator, env
    env.close()
    env.close()  # a second time does nothing


def begin(running, init_state):
    simulator, env = running
    about = simulator.description
    env.begin(Episode(env.task, init_state, 7, env.task.max_steps, about.num_settle_steps), about.views)
    return reply_of(env)


def reply_of(env):
    """Its next reply; other things may arrive before."""
    while True:
        assert wait([env], timeout=START_S), "nothing to read"
        if (reply := env.receive()) is not None:
            return reply


def assert_same(found, wanted):
    assert set(found["views"]) == set(wanted["views"]) and set(found["proprio"]) == set(wanted["proprio"])
    for kind in ("views", "proprio"):
        for name, values in wanted[kind].items():
            np.testing.assert_array_equal(found[kind][name], values)


def test_it_says_what_its_environments_are(simulator):
    assert isinstance(simulator, Simulator)
    about = simulator.description
    assert about.name in (*SIMULATORS, *HERE) and type(named(about.name)) is type(simulator), "its name in the registry"
    assert about.benchmark and simulator.seed_means
    assert about.views and len(set(about.views)) == len(about.views)
    assert all(size >= 1 for size in about.proprio.values())
    assert len({part.name for part in about.actions}) == len(about.actions) and about.action_dim >= 1
    for part in about.actions:
        assert part.size >= 1 and (part.levels is None or part.levels[0] < part.levels[1])
    assert about.control_hz > 0 and about.num_settle_steps >= 0
    assert json.loads(json.dumps(about.as_record())) == about.as_record(), "as a result keeps it"


def test_its_versions_are_told(simulator):
    versions = simulator.versions()
    assert versions == simulator.versions() and all(isinstance(name, str) for name in versions)
    assert all(isinstance(version, str) for version in versions.values()), "all of them are installed"


def test_its_tasks_can_be_told_apart(simulator):
    tasks, again = tasks_of(simulator), tasks_of(simulator)
    assert tasks == again and len(set(tasks)) == len(tasks) >= 1
    assert len({(task.suite, task.task_id) for task in tasks}) == len(tasks)
    for task in tasks:
        assert type(task.task_id) is int and task.instruction.strip()
        assert not set("/\\\0 ") & set(task.suite + task.name), "they stand in file names"
        assert task.max_steps >= 1 and task.num_init_states >= 1


def test_an_observation_is_what_the_description_says(running):
    simulator, env = running
    assert isinstance(env, Environment) and env.description == simulator.description
    observation, success, facts = vars(begin(running, 0)).values()
    assert json.loads(json.dumps(facts)) == facts and isinstance(facts, dict), "as a result keeps them"
    assert type(success) is bool and observation["instruction"] == env.task.instruction
    assert list(observation["views"]) == list(simulator.description.views)
    for picture in observation["views"].values():
        assert picture.shape == (R, R, 3) and picture.dtype == np.uint8
    sizes = {part: np.shape(values) for part, values in observation["proprio"].items()}
    assert sizes == {part: (size,) for part, size in simulator.description.proprio.items()}


def test_the_same_number_begins_the_same_episode(running):
    simulator, env = running
    first = begin(running, 0).observation
    env.act(np.zeros(simulator.description.action_dim), ())
    reply_of(env)
    other = begin(running, 1).observation
    assert_same(begin(running, 0).observation, first)
    if env.description.name != "fake":  # which hides where it begins
        with pytest.raises(AssertionError):
            assert_same(other, first)


def test_requests_may_be_queued_and_only_what_was_asked_for_is_drawn(running):
    simulator, env = running
    still, view = np.zeros(simulator.description.action_dim), simulator.description.views[0]
    episode = Episode(env.task, 0, 7, env.task.max_steps, simulator.description.num_settle_steps)
    for _ in range(2):
        env.begin(episode, ())
        env.act(still, (view,))
    replies = [reply_of(env) for _ in range(4)]
    assert [list(reply.observation["views"]) for reply in replies] == [[], [view], [], [view]]
    assert all(isinstance(reply.success, bool) for reply in replies)
    assert all(json.loads(json.dumps(reply.facts)) == reply.facts for reply in replies)
    assert replies[3].facts == replies[1].facts, "of its own episode"
    assert_same(replies[3].observation, replies[1].observation)


def test_a_render_setting_that_does_not_exist_is_refused(running):
    simulator, env = running
    with pytest.raises(ValueError, match="nonsense"):
        other = simulator.make(env.task, R, "nonsense")
        try:
            other.begin(Episode(env.task, 0, 7, 1, simulator.description.num_settle_steps), ())
            reply_of(other)
        finally:
            other.close()


def test_an_unknown_simulator_is_named_with_what_exists():
    with pytest.raises(ValueError, match=f"unknown environment 'liber': there are {', '.join(SIMULATORS)}"):
        get_simulator("liber")
