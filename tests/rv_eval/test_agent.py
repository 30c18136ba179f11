from dataclasses import asdict

import numpy as np
import pytest

from rv_eval.agent import AgentSettings, ChunkAgent


def chunk(value, horizon=4, gripper=0.3):
    out = np.full((horizon, 7), float(value), dtype=np.float32)
    out[:, -1] = gripper
    return out


def play(agent, chunks):
    actions = []
    for one in chunks:
        assert agent.needs_observation
        agent.add_chunk(one)
        while not agent.needs_observation:
            actions.append(agent.next_action())
    return np.array(actions)


def test_whole_chunk_by_default():
    agent = ChunkAgent(4, AgentSettings())
    assert agent.settings.n_action_steps == 4
    actions = play(agent, [chunk(1), chunk(2)])
    np.testing.assert_array_equal(actions[:, 0], [1, 1, 1, 1, 2, 2, 2, 2])


def test_executed_horizon():
    agent = ChunkAgent(4, AgentSettings(n_action_steps=1))
    np.testing.assert_array_equal(play(agent, [chunk(1), chunk(2)])[:, 0], [1, 2])


def test_gripper_is_snapped_after_averaging():
    agent = ChunkAgent(4, AgentSettings(n_action_steps=1, ensemble_size=2, ensemble_weight=1.0))
    actions = play(agent, [chunk(2, gripper=-1.0), chunk(4, gripper=0.4), chunk(4, gripper=0.4)])
    # Mean of -1 and 0.4 is negative: snapping before averaging would give 0, or -1 + 1.
    np.testing.assert_array_equal(actions[:, -1], [-1, -1, 1])
    np.testing.assert_allclose(actions[:, 0], [2, 3, 4])


def test_reset_forgets():
    agent = ChunkAgent(4, AgentSettings(n_action_steps=2, ensemble_size=2))
    agent.add_chunk(chunk(1))
    agent.reset()
    assert agent.needs_observation
    np.testing.assert_array_equal(play(agent, [chunk(5)])[:, 0], [5, 5])


def test_bad_settings_and_use_are_refused():
    with pytest.raises(ValueError, match="action horizon 5"):
        ChunkAgent(4, AgentSettings(n_action_steps=5))
    with pytest.raises(ValueError, match="no overlap"):
        ChunkAgent(4, AgentSettings(ensemble_size=2))
    ChunkAgent(4, AgentSettings(ensemble_size=2, allow_no_overlap=True))
    with pytest.raises(RuntimeError, match="no action left"):
        ChunkAgent(4, AgentSettings()).next_action()


def test_settings_travel_as_a_dict():
    settings = AgentSettings(1, 10, 1, 1.0)
    assert AgentSettings.from_dict(asdict(settings)) == settings
    for wrong in ({}, asdict(settings) | {"n_action_steps": "1"}, asdict(settings) | {"more": 1}):
        with pytest.raises(ValueError, match="settings of an agent are n_action_steps, "):
            AgentSettings.from_dict(wrong)
