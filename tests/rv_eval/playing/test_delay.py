"""Late answers in a simulator: the agent alone, and in the rollout with environments in processes of their own."""

import functools

import numpy as np
import pytest

from rv_eval.agent import AgentSettings, ChunkAgent
from rv_eval.envs.base import ActionPart, Episode
from rv_eval.playing.delay import DelayedAgent
from rv_eval.playing.rollout import Rollout
from rv_eval.splice import NAIVE, PREFIX, SPLICE, SYNC
from rv_train.policies.base import Prediction
from tests.rv_eval.fakes import FakeEnv, FakePolicy, FakeTask

H = 4
PARTS = [ActionPart("arm", 2), ActionPart("gripper", 1, (-1.0, 1.0))]


def executed(agent, steps):
    """First numbers of what is executed; a chunk says 100 * the step of its observation + place, the gripper closes."""
    done = []
    while len(done) < steps:
        if agent.needs_observation:
            chunk = np.zeros((H, 3), np.float32)
            chunk[:, 0], chunk[:, -1] = 100 * len(done) + np.arange(H), 0.3
            numbers = [100 * len(done) + place for place in range(H) for _ in range(3)]
            agent.add_answer(Prediction(chunk[None], [True], [False], [""], numbers=[numbers]), 0)
        done.append(agent.next_action())
    return done


@pytest.mark.parametrize("execution", [SYNC, NAIVE, SPLICE])
@pytest.mark.parametrize("settings", [AgentSettings(), AgentSettings(n_action_steps=1, ensemble_size=3)])
def test_without_delay_it_is_the_usual_agent(execution, settings):
    wanted = executed(ChunkAgent(H, settings, PARTS), 14)
    np.testing.assert_array_equal(executed(DelayedAgent(H, settings, PARTS, execution, 0), 14), wanted)


def test_sync_knows_no_delay():
    wanted = executed(ChunkAgent(H, AgentSettings(), PARTS), 14)
    np.testing.assert_array_equal(executed(DelayedAgent(H, AgentSettings(), PARTS, SYNC, 3), 14), wanted)


@pytest.mark.parametrize(
    "execution, wanted",
    [
        (SPLICE, [0, 0, 1, 2, 3, 401, 402, 403, 701, 702]),
        (NAIVE, [0, 0, 1, 2, 3, 400, 401, 402, 403, 800]),
    ],
)
def test_one_step_of_delay(execution, wanted):
    agent = DelayedAgent(H, AgentSettings(), PARTS, execution, 1)
    done = executed(agent, 10)
    assert [action[0] for action in done] == wanted
    assert [action[-1] for action in done] == [-1] + [1] * 9, "before the first answer the gripper stays open"
    assert agent.holds == 1
    step = {SPLICE: 7, NAIVE: 8}[execution]  # of the last question before the tenth action, whose chunk goes on
    assert len(agent.draft) % 3 == 0 and all(100 * step <= number < 100 * step + H for number in agent.draft)


def test_a_whole_horizon_of_delay_holds_with_the_gripper_as_it_was():
    done = executed(DelayedAgent(H, AgentSettings(), PARTS, SPLICE, H), 16)
    assert [action[0] for action in done] == [0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 800, 801, 802, 803]
    assert [action[-1] for action in done] == [-1] * 4 + [1] * 12
    assert not done[8][:-1].any()


@pytest.mark.parametrize("settings", [AgentSettings(), AgentSettings(n_action_steps=2, ensemble_size=3)])
def test_an_observation_says_what_is_executed_until_its_answer(settings):
    """Averaged over chunks and snapped, as it is executed."""
    agent, done, told = DelayedAgent(H, settings, PARTS, PREFIX, 2), [], []
    while len(done) < 14:
        if agent.needs_observation:
            told.append((len(done), agent.told()))
            chunk = np.random.default_rng(len(done)).normal(size=(1, H, 3)).astype(np.float32)
            agent.add_answer(Prediction(chunk, [True], [False], [""]), 0)
        done.append(agent.next_action())
    assert told[0] == (0, {"draft": []}) and len(told) > 3
    for step, said in told[1:-1]:
        np.testing.assert_array_equal(said["prefix"], done[step : step + 2])
    assert DelayedAgent(H, settings, PARTS, SPLICE, 2).told() == {"draft": []}
    agent.reset()
    assert agent.told() == {"draft": []}


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="at least 0 steps"):
        DelayedAgent(H, AgentSettings(), PARTS, SPLICE, -1)
    with pytest.raises(RuntimeError, match="give it an answer"):
        DelayedAgent(H, AgentSettings(), PARTS, SPLICE, 1).next_action()


@pytest.mark.parametrize("execution, delay, questions", [(SYNC, 3, [0, 4, 8]), (SPLICE, 1, [0, 4, 7, 10])])
def test_in_the_rollout(execution, delay, questions):
    """The fake environment insists on the action's number being the step's: so each is executed once, at its step."""
    seen, policy = [], FakePolicy()
    predict = policy.predict_detailed

    def remember(observations):
        seen.extend(int(observation["proprio"]["robot_states"][0]) for observation in observations)
        prediction = predict(observations)
        if not seen[:-1]:  # the arm holds until the first answer is there: its first action is for that step
            prediction.chunk[:, :, 0] += delay if execution == SPLICE else 0
        return prediction

    policy.predict_detailed = remember
    task = FakeTask()
    rollout = Rollout(
        policy,
        FakeEnv,
        AgentSettings(),
        make_agent=functools.partial(DelayedAgent, execution=execution, delay=delay),
    )
    (result,) = rollout.run([Episode(task, 11, 7, 12)])
    assert result.success and result.steps == 11
    assert seen == questions and result.queries == len(questions)
