from dataclasses import asdict

import numpy as np
import pytest

from rv_eval.agent import AgentSettings, ChunkAgent
from rv_eval.drafts import numbers_of
from rv_eval.envs.base import ActionPart, snap
from rv_train.policies.base import Prediction

PARTS = (ActionPart("arm", 6), ActionPart("gripper", 1, (-1.0, 1.0)))


def answer(chunk, numbers=None):
    return Prediction(chunk[None], np.array([True]), np.array([False]), [""], numbers=numbers and [numbers])


def chunk(value, horizon=4, gripper=0.3):
    out = np.full((horizon, 7), float(value), dtype=np.float32)
    out[:, -1] = gripper
    return out


def play(agent, chunks):
    actions = []
    for one in chunks:
        assert agent.needs_observation
        agent.add_answer(answer(one), 0)
        while not agent.needs_observation:
            actions.append(agent.next_action())
    return np.array(actions)


def test_whole_chunk_by_default():
    agent = ChunkAgent(4, AgentSettings(), PARTS)
    assert agent.settings.n_action_steps == 4
    actions = play(agent, [chunk(1), chunk(2)])
    np.testing.assert_array_equal(actions[:, 0], [1, 1, 1, 1, 2, 2, 2, 2])


def test_executed_horizon():
    agent = ChunkAgent(4, AgentSettings(n_action_steps=1), PARTS)
    np.testing.assert_array_equal(play(agent, [chunk(1), chunk(2)])[:, 0], [1, 2])


def test_gripper_is_snapped_after_averaging():
    agent = ChunkAgent(4, AgentSettings(n_action_steps=1, ensemble_size=2, ensemble_weight=1.0), PARTS)
    actions = play(agent, [chunk(2, gripper=-1.0), chunk(4, gripper=0.4), chunk(4, gripper=0.4)])
    # Mean of -1 and 0.4 is negative: snapping before averaging would give 0, or -1 + 1.
    np.testing.assert_array_equal(actions[:, -1], [-1, -1, 1])
    np.testing.assert_allclose(actions[:, 0], [2, 3, 4])


def test_an_action_is_snapped_where_its_environment_says_so():
    two_arms = (ActionPart("left", 2), ActionPart("left_gripper", 1, (0.0, 1.0)))
    two_arms += (ActionPart("right", 2), ActionPart("right_gripper", 1), ActionPart("mode", 2, (-2.0, 0.0)))
    action = np.array([0.1, 0.9, 0.5, -3.0, 0.7, 0.4, -1.1, -0.9])
    np.testing.assert_array_equal(snap(action, two_arms), [0.1, 0.9, 0.0, -3.0, 0.7, 0.4, -2.0, 0.0])
    assert action[2] == 0.5, "the caller's array is the caller's"
    agent = ChunkAgent(1, AgentSettings(), [ActionPart("arm", 3), ActionPart("gripper", 1)])
    np.testing.assert_array_equal(play(agent, [np.full((1, 4), 0.25)]), np.full((1, 4), 0.25))


def test_the_draft_is_what_was_said_about_actions_that_are_not_executed():
    agent = ChunkAgent(4, AgentSettings(n_action_steps=3), PARTS)
    assert agent.draft == []
    agent.add_answer(answer(chunk(1), list(range(28))), 0)
    assert agent.draft == [21, 22, 23, 24, 25, 26, 27]
    agent.add_answer(answer(chunk(1)), 0)  # of a policy that writes nothing
    assert agent.draft == []


def test_the_numbers_of_a_text():
    assert numbers_of("0 7 100") == [0, 7, 100]
    for text in ("", "from 4", "1 2 -9", "1 2  9", "9" * 5000):
        assert numbers_of(text) == []


def test_reset_forgets():
    agent = ChunkAgent(4, AgentSettings(n_action_steps=2, ensemble_size=2), PARTS)
    agent.add_answer(answer(chunk(1), list(range(29))), 0)
    agent.reset()
    assert agent.needs_observation and agent.draft == []
    np.testing.assert_array_equal(play(agent, [chunk(5)])[:, 0], [5, 5])


def test_bad_settings_and_use_are_refused():
    with pytest.raises(ValueError, match="action horizon 5"):
        ChunkAgent(4, AgentSettings(n_action_steps=5), PARTS)
    with pytest.raises(ValueError, match="no overlap"):
        ChunkAgent(4, AgentSettings(ensemble_size=2), PARTS)
    ChunkAgent(4, AgentSettings(ensemble_size=2, allow_no_overlap=True), PARTS)
    with pytest.raises(RuntimeError, match="no action left"):
        ChunkAgent(4, AgentSettings(), PARTS).next_action()


def test_settings_travel_as_a_dict():
    settings = AgentSettings(1, 10, 1, 1.0)
    assert AgentSettings.from_dict(asdict(settings)) == settings
    for wrong in ({}, asdict(settings) | {"n_action_steps": "1"}, asdict(settings) | {"more": 1}):
        with pytest.raises(ValueError, match="settings of an agent are n_action_steps, "):
            AgentSettings.from_dict(wrong)
