"""The robot's loop on a clock that nobody waits for: when it asks, where it goes on, when it holds and when it ends."""

import dataclasses
import itertools
import json
import math
import threading

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile, KeyMap
from rv_eval.agent import AgentSettings
from rv_eval.serving.protocol import PolicyLost
from rv_eval.serving.robot import RobotLoop, RobotOptions, ThreadAsker
from rv_eval.serving.robot_limits import Limits
from rv_eval.serving.robot_log import RobotLog, check_log_path
from rv_eval.splice import NAIVE, PREFIX, SPLICE, SYNC
from tests.rv_eval.robots import ACTION_DIM, HORIZON, VIEWS, FakeAsker, FakeClock, FakePolicy, FakeRobot

ANY = Limits(low=(-1e6,) * ACTION_DIM, high=(1e6,) * ACTION_DIM)
HZ = 10.0


class Run:
    """A loop and everything around it. delays: of the answers, in control steps."""

    def __init__(self, steps, delays, limits=ANY, spoil=None, scale=1.0, side=16, policy=None, **options):
        self.clock = FakeClock()
        self.robot = FakeRobot(self.clock, side)
        self.asker = FakeAsker(self.clock, [delay / HZ for delay in delays], spoil, scale)
        self.log = RobotLog()
        options = {"settings": AgentSettings()} | options
        self.options = RobotOptions("put it there", HZ, steps, **options)
        policy = policy or FakePolicy()
        self.loop = RobotLoop(self.robot, policy, self.asker, self.options, limits, self.log, self.clock)

    def __call__(self):
        result = self.loop.run()
        assert self.robot.done.pop() == "-", "however it ends, it holds"
        return result


def chunk_of(question, *places):
    return [100.0 * question + place for place in places]


def test_it_asks_early_and_goes_on_without_a_pause():
    run = Run(28, [2])
    result = run()
    # asked in step 0, 8 - 2 = 6 actions later, then after every 6 actions
    assert run.robot.done == ["-"] * 2 + chunk_of(0, *range(8)) + [
        *(action for question in (1, 2, 3) for action in chunk_of(question, *range(2, 8)))
    ]
    assert (result.done, result.steps, result.executed, result.holds) == (True, 28, 26, 2)
    assert result.delays == [2, 2, 2, 2] and result.missed == result.late == result.refused == 0


def test_what_was_going_to_be_executed_is_the_draft():
    run = Run(20, [2])
    run()
    drafts = [question["draft"] for question in run.asker.questions]
    assert drafts[0] == []
    assert drafts[1] == [place for place in (6, 7) for _ in range(ACTION_DIM)]
    assert drafts[2] == [100 + place for place in (6, 7) for _ in range(ACTION_DIM)]
    assert [question["random_key"] for question in run.asker.questions] == [(0, n) for n in range(len(drafts))]
    assert {question["instruction"] for question in run.asker.questions} == {"put it there"}


def test_what_is_executed_until_the_answer_is_the_prefix_as_the_limits_let_it_through():
    run = Run(14, [2], Limits((0, 0), (1e6, 1), (4, 1)), execution=PREFIX, snap_gripper=True, scale=10.0)
    run()
    first, second = (question.get("prefix") for question in run.asker.questions)
    assert first is None, "before the first answer it stands still"
    sent = run.robot.done[8:10]
    assert sent == [24, 28], "4 further each step, though 60 and 70 were said"
    np.testing.assert_array_equal(second, [[sent[0], 0], [sent[1], 0]])
    spliced, same = Run(14, [2], execution=SPLICE), Run(14, [2], execution=PREFIX)
    assert spliced() == same() and spliced.robot.done == same.robot.done
    assert not any("prefix" in question for question in spliced.asker.questions)


def test_a_policy_that_writes_nothing_has_no_prefix():
    policy = FakePolicy()
    policy.takes_prefix = False
    with pytest.raises(ValueError, match=r"checkpoints/fake cannot begin its chunks .* take splice"):
        Run(1, [1], policy=policy, execution=PREFIX)


def test_sync_and_naive():
    run = Run(20, [2], execution=SYNC)
    run()
    assert run.robot.done == (["-"] * 2 + chunk_of(0, *range(8)) + ["-"] * 2 + chunk_of(1, *range(8)))
    run = Run(18, [2], execution=NAIVE)
    run()
    assert run.robot.done == ["-"] * 2 + chunk_of(0, *range(8)) + chunk_of(1, *range(8))


def test_chunks_are_averaged_as_configured():
    settings = AgentSettings(n_action_steps=4, ensemble_size=2, ensemble_weight=1.0)
    run = Run(14, [1], settings=settings)
    run()
    # asked in step 5 after 4 actions, spliced in at its second; its places 1 to 3 are the first chunk's 5 to 7
    averaged = [(5 + 101) / 2, (6 + 102) / 2, (7 + 103) / 2]
    assert run.robot.done[:10] == ["-", *chunk_of(0, *range(5)), *averaged, 104.0]


def test_a_late_answer_holds_repeats_nothing_and_goes_on_behind_what_was_executed():
    run = Run(32, [2, 2, 5, 2])
    result = run()
    # question 2 is asked with 2 actions left and takes 5 steps: 3 holds, then on with its third action
    actions = [action for action in run.robot.done if action != "-"]
    assert len(set(actions)) == len(actions), "no action is repeated"
    first_of_2 = run.robot.done.index(202.0)
    assert run.robot.done[first_of_2 - 5 : first_of_2] == [*chunk_of(1, 6, 7), "-", "-", "-"]
    assert result.done and result.holds == 5
    # it asks earlier from then on: 5 steps before the end
    assert result.delays[:4] == [2, 2, 5, 2]


def test_after_one_slow_answer_it_asks_so_much_earlier():
    run = Run(60, [1, 1, 3, 3])
    result = run()
    assert result.done
    late = run.robot.done[run.robot.done.index(203.0) :] if 203.0 in run.robot.done else []
    assert late and "-" not in late, "every later answer is there in time"


def test_the_first_answer_is_no_measure():
    """It compiles, or loads; lasting as long as a chunk it would make the loop wait for the end of each."""
    run = Run(60, [20, 1])
    result = run()
    assert result.delays[0] == 20 and set(result.delays[1:]) == {1}
    # 20 holds; then a question when nothing is left (all that is known are 20 steps), and from then on none
    assert run.robot.done[:20] == ["-"] * 20 and result.holds == 21


def test_a_lost_answer_ends_the_run():
    run = Run(1000, [2, 2, math.inf], patience_s=1.0)
    result = run()
    assert not result.done and result.reason == "an answer takes longer than 1 s"
    asked_at = run.robot.done.index(106.0)
    assert run.robot.done[asked_at:] == [*chunk_of(1, 6, 7), *["-"] * 9]
    assert result.steps < 1000


def test_the_first_answer_has_patience_of_its_own():
    run = Run(40, [15, 1], patience_s=1.0, first_patience_s=2.0)
    assert run().done
    run = Run(40, [25, 1], patience_s=1.0, first_patience_s=2.0)
    assert run().reason == "an answer takes longer than 2 s"


def test_a_lost_server_ends_the_run():
    run = Run(1000, [2], spoil={1: PolicyLost("gone")})
    result = run()
    assert not result.done and result.reason == "the policy does not answer: PolicyLost: gone"
    assert run.robot.done[-1] == chunk_of(0, 7)[0]


def unreadable(prediction):
    return dataclasses.replace(prediction, valid=np.array([False]))


def repaired(prediction):
    return dataclasses.replace(prediction, repaired=np.array([True]))


def infinite(prediction):
    prediction.chunk[0, 3, 1] = np.inf
    return prediction


@pytest.mark.parametrize("spoil", [unreadable, repaired, infinite])
def test_an_answer_that_had_to_be_guessed_is_not_executed(spoil):
    run = Run(24, [2], spoil={1: spoil})
    result = run()
    assert result.done and result.refused == 1
    actions = [action for action in run.robot.done if action != "-"]
    assert not [action for action in actions if 100 <= action < 200]
    assert run.robot.done[:12] == ["-"] * 2 + chunk_of(0, *range(8)) + ["-"] * 2
    assert run.robot.done[12] == 200.0, "the arm held, so the next answer begins with its first action"
    assert run.asker.questions[2]["draft"] == []


def test_three_of_them_end_the_run():
    run = Run(1000, [2], spoil={1: unreadable, 2: unreadable, 3: infinite})
    result = run()
    assert result.refused == 3 and result.reason == "3 answers one after the other cannot be executed"
    run = Run(100, [2], spoil={1: unreadable, 2: unreadable, 4: unreadable, 5: unreadable})
    assert run().done


def test_a_whole_chunk_of_delay_holds_and_executes_in_turn():
    run = Run(48, [HORIZON])
    result = run()
    wanted = [["-"] * 8 + chunk_of(question, *range(8)) for question in range(3)]
    assert run.robot.done == list(itertools.chain(*wanted))
    assert result.done and result.late == 0


def test_control_steps_that_take_too_long_are_counted_and_not_made_up_for():
    run = Run(10, [2])
    run.robot.takes_s = 2.5 / HZ
    began = run.clock.time
    result = run()
    assert result.missed == 10 and len(run.robot.done) == 10
    assert run.clock.time - began == pytest.approx(10 * 2.5 / HZ)


def test_range_and_speed_are_limited():
    limits = Limits(low=(-10, -1), high=(5, 1), max_change=(2, 1), position="state")
    run = Run(20, [1], limits, scale=-3.0)
    run.robot.place = np.array([20.0, 0])  # it stands beyond the range
    result = run()
    actions = [action for action in run.robot.done if action != "-"]
    steps = np.diff([20.0, *actions])
    assert np.abs(steps).max() <= 2, "also from where it stood at first"
    assert actions[0] == 18.0 and actions[-1] == -10.0
    assert result.limited > 5 and result.done


def test_after_a_hold_the_speed_is_measured_from_where_the_arm_is():
    limits = Limits(low=(-1000, -1), high=(1000, 1), max_change=(2, 1), position="state")
    run = Run(15, [1, 4], limits, execution=SYNC)
    look = run.robot.observe

    def moved_by_hand():
        seen = look()
        if run.robot.looks == 12:
            run.robot.place = seen["proprio"]["state"] = np.array([50.0, 0])
        return seen

    run.robot.observe = moved_by_hand
    run()
    assert run.robot.done[9:15] == ["-"] * 4 + [52.0, 54.0]


def test_differences_are_limited_from_zero():
    run = Run(4, [1], Limits(low=(-9, -9), high=(9, 9), max_change=(1, 1)), scale=5.0)
    run()
    assert run.robot.done == ["-", 0.0, 1.0, 2.0]


def test_the_gripper_can_be_snapped():
    run = Run(3, [1], snap_gripper=True)
    seen = []
    run.robot.act = lambda action: seen.append(action[-1])
    run()
    assert seen == [-1.0, -1.0]


def test_a_robot_that_is_gone_when_it_should_hold_at_the_end_was_not_well():
    run = Run(12, [2])

    def hold():
        if run.clock.now() > 101:  # the last step is done
            raise ConnectionError("it is gone")

    run.robot.hold = hold
    with pytest.raises(ConnectionError, match="it is gone"):
        run.loop.run()
    assert run.loop.result.steps == 12 and not run.loop.result.done


@pytest.mark.parametrize("error", [ConnectionError("unplugged"), KeyboardInterrupt()])
def test_whatever_breaks_it_holds(error):
    run = Run(20, [2])
    run.robot.trouble[6] = error
    with pytest.raises(type(error)):
        run.loop.run()
    assert run.robot.done[-2:] == [3.0, "-"]

    run = Run(20, [2])
    run.robot.trouble[6] = error

    def broken():
        if run.robot.looks == 6:
            raise RuntimeError("that, too")

    run.robot.hold = broken
    with pytest.raises(type(error)):
        run.loop.run()


def test_a_bad_observation_or_robot_is_refused():
    run = Run(20, [2], policy=type("Policy", (FakePolicy,), {"views": ("front", "top")})())
    with pytest.raises(ValueError, match="no view 'top'; it has front, wrist"):
        run.loop.run()
    run = Run(20, [2], policy=type("Policy", (FakePolicy,), {"proprio": {"hand": 3}})())
    with pytest.raises(ValueError, match="no part of the robot's state 'hand'; it has state"):
        run.loop.run()
    with pytest.raises(ValueError, match="limits: 3 numbers, but the policy's actions have 2"):
        Run(20, [2], Limits(low=(0,) * 3, high=(1,) * 3))
    run = Run(20, [2], Limits((0, 0), (1, 1), (1, 1), "hand"))
    with pytest.raises(ValueError, match="'hand' must hold 2 finite numbers"):
        run.loop.run()


def test_long_names_find_the_robots_short_ones_and_pictures_are_made_small():
    names = {"views": ("observation.images.front", "wrist"), "proprio": {"observation.state": 2}, "resolution": 8}
    run = Run(6, [1], side=32, policy=type("Policy", (FakePolicy,), names)())
    run()
    question = run.asker.questions[0]
    assert set(question["views"]) == set(names["views"]) and question["views"]["wrist"].shape == (8, 8, 3)
    assert question["proprio"]["observation.state"].tolist() == [0, 0]


def test_pictures_are_as_large_as_each_cameras_in_training():
    cameras = {"front": [24, 32], "wrist": [8, 8]}
    policy = type("Policy", (FakePolicy,), {"resolution": 32, "pictures": {"cameras": cameras}})()
    run = Run(6, [1], side=48, policy=policy)
    run()
    views = run.asker.questions[0]["views"]
    assert {view: picture.shape for view, picture in views.items()} == {"front": (24, 24, 3), "wrist": (8, 8, 3)}


def test_the_log_is_a_demonstration_file(tmp_path):
    run = Run(20, [2])
    result = run()
    path = check_log_path(tmp_path / "run.hdf5")
    record = {"result": dataclasses.asdict(result)}
    assert run.log.write(path, "put it there", record)
    demos = DemoFile(path, KeyMap.find(tmp_path / "run.json"))
    assert demos.demos == ["demo_0"] and set(demos.views) == set(VIEWS)
    assert demos.instruction == "put it there"
    with h5py.File(path) as file:
        group = file["data/demo_0"]
        np.testing.assert_array_equal(group["actions"][:, 0], [action for action in run.robot.done if action != "-"])
        assert group["step"][:3].tolist() == [2, 3, 4], "what was seen before each action"
        assert [frame[0, 0, 0] for frame in group["obs/front"][:3]] == [3, 4, 5]
        assert group["obs/state"].shape == (18, 2)
        assert json.loads(group.attrs["record"])["result"]["executed"] == 18
        assert group["answers/asked"][:].tolist() == [0, 8, 14] and group["answers/came"][:].tolist() == [2, 10, 16]
        assert group["answers/chunks"].shape == (3, HORIZON, ACTION_DIM)
    with pytest.raises(ValueError, match="is there already"):
        check_log_path(path)
    with pytest.raises(ValueError, match=r"a log is a \.hdf5 file"):
        check_log_path(tmp_path / "run.txt")
    assert not RobotLog().write(tmp_path / "none.hdf5", "x", {}) and not (tmp_path / "none.hdf5").exists()


GOOD = {"low": [0, -1.5], "high": [1, 1], "max_change": [0.1, 1], "position": "state", "rotations": None}
BAD_LIMITS = {
    "entry missing": ({"low": [0], "high": [1]}, "needs 'max_change'"),
    "entry unknown": (GOOD | {"speed": 3}, "no entry 'speed'"),
    "not a list": (GOOD | {"low": 3}, "low is a list of some finite numbers"),
    "other lengths": (GOOD | {"high": [1]}, "high is a list of 2 finite numbers"),
    "not finite": (GOOD | {"high": [1, float("inf")]}, "high is a list of 2"),
    "empty range": (GOOD | {"high": [1, -2]}, "below its high"),
    "no change": (GOOD | {"max_change": [0, 1]}, "above 0"),
    "position without speed": (GOOD | {"max_change": None}, "max_change must say"),
    "position no name": (GOOD | {"position": 3}, "is the name of a part"),
    "rotations not said": ({name: GOOD[name] for name in list(GOOD)[:-1]}, "needs 'rotations' (null: none)"),
    "rotations no form": (GOOD | {"rotations": {"dims": [0], "form": "euler"}}, "'euler' is no form; choose one of"),
    "rotations too long": (GOOD | {"rotations": {"dims": [0], "form": "axis_angle"}}, "3 each, among 2"),
    "rotations of another kind": (GOOD | {"rotations": [0]}, "rotations are {"),
    "a bool": (GOOD | {"low": [True, -2]}, "low is a list"),
}


def test_limits_from_a_file(tmp_path):
    path = tmp_path / "limits.json"
    path.write_text(json.dumps(GOOD | {"about": "for people"}))
    assert Limits.load(path) == Limits((0, -1.5), (1, 1), (0.1, 1), "state")
    for name, (tree, reason) in BAD_LIMITS.items():
        path.write_text(json.dumps(tree))
        with pytest.raises(ValueError) as caught:
            Limits.load(path)
        assert reason in str(caught.value) and str(path) in str(caught.value), name


@pytest.mark.parametrize(
    "changes", [{"rate_hz": 0}, {"rate_hz": math.nan}, {"max_steps": 0}, {"patience_s": 0}, {"first_patience_s": -1}]
)
def test_options_are_checked(changes):
    with pytest.raises(ValueError, match="got"):
        RobotOptions(**({"instruction": "x", "rate_hz": 1.0, "max_steps": 1, "settings": AgentSettings()} | changes))


def test_a_policy_in_a_thread_of_its_own():
    may_answer, answered = threading.Event(), threading.Event()

    class SlowPolicy:
        def predict_detailed(self, observations):
            may_answer.wait(10)
            if observations[0] == "bad":
                raise ValueError("no")
            return observations

    class Watched(ThreadAsker):
        def _predict(self, observation):
            super()._predict(observation)
            answered.set()

    asker = Watched(SlowPolicy())
    asker.ask("good")
    assert asker.answer() is None
    may_answer.set()
    answered.wait(10)
    assert asker.answer() == ["good"] and asker.answer() is None
    answered.clear()
    asker.ask("bad")
    answered.wait(10)
    with pytest.raises(ValueError, match="no"):
        asker.answer()
    assert RobotOptions("x", 1.0, 1, AgentSettings()).execution == SPLICE
