"""Rotations that are averaged and limited as rotations, whatever their numbers do."""

import json
import math

import numpy as np
import pytest

from libs.action_form import Rotations
from libs.action_form.rotation import from_matrix, near, size, to_matrix
from libs.errors import BadInput
from libs.temporal_ensemble import TemporalEnsembler
from rv_eval.agent import AgentSettings
from rv_eval.serving.remote_policy import RemotePolicy
from rv_eval.serving.robot import RobotLoop, RobotOptions
from rv_eval.serving.robot_limits import Limits
from rv_eval.splice import SYNC
from rv_train.policies.base import Prediction
from tests.rv_eval.robots import FakeClock, FakePolicy
from tests.rv_eval.servers import PicturePolicy, running

FORMS = ["axis_angle", "quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "euler_ZYX", "6d_columns"]


def turn(one, other):
    """Radians between two rotations (3, 3)."""
    return np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1))


def limits_of(form, change=0.05, bound=7.0):
    width = size(form)
    return Limits((-1,) * 3 + (-bound,) * width, (1,) * 3 + (bound,) * width, (change,) * (3 + width), "pose").of(
        Rotations((3,), form)
    )


def about(axis, angle):
    return to_matrix("axis_angle", np.asarray(axis, float) * angle)


def pose(form, matrix, place=0.0):
    return np.append([place] * 3, from_matrix(form, matrix))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 0, 1), (0.6, 0, 0.8)])
def test_across_the_jump_a_rotation_goes_the_short_way(form, axis):
    """From 175 to 185 degrees: the numbers of the second are those of -175."""
    begin, end = about(axis, np.radians(175)), about(axis, np.radians(185))
    limits, before = limits_of(form), pose(form, begin)
    step = 0.1 if form.startswith("quaternion") else 0.05
    wanted = pose(form, end, place=0.2)
    for _ in range(20):
        after = limits.apply(wanted, before)
        rotation = to_matrix(form, after[3:])
        assert turn(to_matrix(form, before[3:]), rotation) <= step + 1e-6
        assert max(turn(begin, rotation), turn(rotation, end)) <= np.radians(10) + 1e-6, "nowhere else"
        assert np.abs(after[:3] - before[:3]).max() <= 0.05 + 1e-9
        if form.startswith("quaternion"):
            assert np.linalg.norm(after[3:]) == pytest.approx(1)
        before = after
    assert turn(to_matrix(form, before[3:]), end) < 1e-6
    np.testing.assert_array_equal(before, wanted, err_msg="what needs no limit is sent as it is")


@pytest.mark.parametrize("form", FORMS)
def test_every_step_of_random_goals_is_short_and_arrives(form):
    rng, limits = np.random.default_rng(0), limits_of(form, 0.3)
    before = pose(form, np.eye(3))
    for _ in range(20):
        wanted = pose(form, about(*[(v := rng.normal(size=3)) / np.linalg.norm(v), rng.uniform(0, np.pi)]))
        for _ in range(12):
            after = limits.apply(wanted, before)
            assert turn(to_matrix(form, before[3:]), to_matrix(form, after[3:])) <= 0.6 + 1e-6
            before = after
        assert turn(to_matrix(form, before[3:]), to_matrix(form, wanted[3:])) < 1e-6


def test_a_quaternion_of_the_other_sign_is_no_turn():
    limits = limits_of("quaternion_xyzw", bound=1.0)
    q = from_matrix("quaternion_xyzw", about((0, 1, 0), 1.0))
    np.testing.assert_array_equal(limits.apply(np.append(np.zeros(3), -q), np.append(np.zeros(3), q))[3:], -q)


def test_numbers_stay_in_the_range_and_take_the_branch_that_lies_in_it():
    low, high = (0,) * 4, (1,) * 4  # a quaternion, x y z w: of two signs this range holds one
    limits = Limits(low, high, (0.1,) * 4, "pose", Rotations((0,), "quaternion_xyzw"))
    q = from_matrix("quaternion_xyzw", about((1, 0, 0), 0.3))
    np.testing.assert_allclose(
        limits.apply(-q, np.array([0.0, 0, 0, 1])), from_matrix("quaternion_xyzw", about((1, 0, 0), 0.2))
    )
    # A yaw that may not cross pi stays on its side, and from beyond the range it comes back.
    limits = Limits((-3,) * 3, (3,) * 3, (0.1,) * 3, "pose", Rotations((0,), "euler_xyz"))
    np.testing.assert_allclose(limits.apply(np.array([0, 0, -2.9]), np.array([0, 0, 2.98]))[2], 3, atol=0.021)
    back = limits.apply(np.array([0, 0, 2.0]), np.array([0, 0, 3.1]))
    np.testing.assert_allclose(back, [0, 0, 3.0], atol=1e-9)


def test_differences_are_limited_from_no_turn():
    limits = Limits((-1,) * 4, (1,) * 4, (0.01,) * 4).of(Rotations((0,), "quaternion_wxyz"))
    at_rest = limits.at_rest({})
    np.testing.assert_array_equal(at_rest, [1, 0, 0, 0])
    after = limits.apply(from_matrix("quaternion_wxyz", about((0, 0, 1), 1.0)), at_rest)
    assert turn(to_matrix("quaternion_wxyz", after), np.eye(3)) == pytest.approx(0.02)


def test_what_the_file_and_the_policy_say_of_rotations(tmp_path):
    tree = {"low": [-1] * 7, "high": [1] * 7, "max_change": [0.1] * 7, "position": "pose"}
    told = {"dims": [3], "form": "quaternion_xyzw"}
    (tmp_path / "limits.json").write_text(json.dumps(tree | {"rotations": told}))
    limits = Limits.load(tmp_path / "limits.json")
    assert limits.rotations == Rotations((3,), "quaternion_xyzw") and limits.rotations.as_dict() == told
    assert limits.of(Rotations()) == limits.of(limits.rotations) == limits
    with pytest.raises(BadInput, match=r"but the policy was trained with .*quaternion_wxyz"):
        limits.of(Rotations((3,), "quaternion_wxyz"))
    (tmp_path / "limits.json").write_text(json.dumps(tree | {"rotations": None}))
    assert Limits.load(tmp_path / "limits.json").of(limits.rotations) == limits


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_of_rotations_lies_between_them(form):
    rotations = Rotations((1,), form)
    ensembler = TemporalEnsembler(2, 1, 2, weight=1.0, rotations=rotations)
    one, other = about((0, 0, 1), np.radians(176)), about((0, 0, 1), np.radians(-178))
    ensembler.add(np.stack([np.append(5.0, from_matrix(form, one))] * 2))
    newest = np.stack([np.append(7.0, from_matrix(form, other))] * 2)
    met = ensembler.add(newest)
    assert met[0, 0] == 6.0
    assert turn(to_matrix(form, met[0, 1:]), about((0, 0, 1), np.radians(179))) < 1e-6
    np.testing.assert_allclose(near(form, met[0, 1:], newest[0, 1:]), met[0, 1:], atol=1e-12)
    np.testing.assert_array_equal(met[1], newest[1], err_msg="nothing older reaches it")


def test_the_mean_of_two_signs_of_a_quaternion_is_one():
    ensembler = TemporalEnsembler(2, 1, 2, weight=1.0, rotations=Rotations((0,), "quaternion_xyzw"))
    q = from_matrix("quaternion_xyzw", about((0, 1, 0), 2.0))
    ensembler.add(np.stack([q, q]))
    np.testing.assert_allclose(ensembler.add(np.stack([-q, -q]))[0], -q)


def test_a_served_policy_says_its_rotations():
    told = {"dims": [3], "form": "euler_xyz"}
    with running(PicturePolicy(rotations=told)) as server:
        remote = RemotePolicy(server.url)
        assert remote.rotations == Rotations((3,), "euler_xyz") and remote.describe()["rotations"] == told
        remote.close()
    with running(PicturePolicy()) as server:
        remote = RemotePolicy(server.url)
        assert remote.rotations == Rotations() and "rotations" not in remote.describe()
        remote.close()
    wrong = PicturePolicy(rotations={"dims": [5], "form": "euler_xyz"})
    with running(wrong) as server, pytest.raises(BadInput, match="its metadata: rotations: "):
        RemotePolicy(server.url)


def test_the_loop_limits_a_pose_as_its_policy_knows_it():
    """A yaw that goes on from 177 degrees in steps of two, recorded from -180 to 180; the arm may turn three a step."""
    policy, steps = FakePolicy(), np.radians(177 + 2.0 * np.arange(8))
    policy.action_dim, policy.proprio, policy.horizon = 3, {"state": 3}, 8
    policy.rotations = Rotations((0,), "euler_xyz")
    chunk = np.zeros((8, 3), np.float32)
    chunk[:, 2] = (steps + np.pi) % (2 * np.pi) - np.pi
    told, stands = [], {"views": {view: np.zeros((16, 16, 3), np.uint8) for view in policy.views}}
    stands["proprio"] = {"state": np.array([0, 0, np.radians(175)])}

    class Robot:
        observe, act, hold = staticmethod(lambda: stands), staticmethod(told.append), staticmethod(lambda: None)

    class Asker:
        ask = staticmethod(lambda question: None)
        answer = staticmethod(lambda: Prediction.unwritten(chunk[None]))

    limits = Limits((-3.2,) * 3, (3.2,) * 3, (math.radians(3),) * 3, "state")
    options = RobotOptions("turn on", 10.0, 9, AgentSettings(), execution=SYNC)
    result = RobotLoop(Robot(), policy, Asker(), options, limits, clock=FakeClock()).run()
    assert result.done and result.limited == 0, "as numbers, it would be led back through zero"
    np.testing.assert_array_equal(np.stack(told)[:, 2], chunk[: len(told), 2].astype(np.float64))
