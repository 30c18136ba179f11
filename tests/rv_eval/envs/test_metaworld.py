"""docs/examples/serve_metaworld.py in an environment of its own, where `make metaworld` has made one."""

import numpy as np
import pytest

from rv_eval.envs.base import Episode
from rv_eval.envs.remote import RemoteSimulator
from tests.rv_eval.envs.elsewhere import EXAMPLES
from tests.tiny import ROOT

PYTHON = ROOT / ".venv-metaworld/bin/python"
pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-metaworld: make metaworld"),
]
WAIT_S = 120.0


@pytest.fixture(scope="module")
def simulator():
    with RemoteSimulator(command=f"{PYTHON} {EXAMPLES / 'serve_metaworld.py'}") as simulator:
        yield simulator


def begin(env, init_state, views):
    env.begin(Episode(env.task, init_state, 7, env.task.max_steps), views)
    return env.wait(WAIT_S)


def test_there_are_ten_tasks_of_four_numbers(simulator):
    assert len(simulator.tasks) == 10 and {task.suite for task in simulator.tasks} == {"mt10"}
    assert simulator.description.action_dim == 4 and simulator.has_expert
    assert simulator.versions()["metaworld"] == "3.1.1"


def test_a_number_is_an_episode_whose_goal_is_drawn_upright_and_its_expert_gets_there(simulator):
    task = next(task for task in simulator.tasks if task.name == "reach-v3")
    env, views = simulator.make(task, 128, "fast"), simulator.description.views
    try:
        first = begin(env, 0, views).observation
        for _ in range(100):
            env.act(env.ask_expert(WAIT_S), ())
            if (reply := env.wait(WAIT_S)).success:
                break
        assert reply.success and reply.facts["distance"] <= 0.05
        again = begin(env, 0, views).observation
        other = begin(env, 1, views).observation
    finally:
        env.close()
    for view in views:
        np.testing.assert_array_equal(first["views"][view], again["views"][view])
        assert (first["views"][view] != other["views"][view]).any()
    for side in ("left", "right"):
        picture = first["views"][side].astype(int)
        red = np.argwhere((picture[..., 0] > 180) & (picture[..., 1:].max(-1) < 60))
        assert len(red) >= 4, "the ball"
        above, below = picture[:8, 56:72].mean((0, 1)), picture[-8:].mean((0, 1))
        assert abs(above[0] - above[2]) < 20 and below[0] - below[2] > 30, "grey above, the table's wood below"
