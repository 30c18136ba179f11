"""Actions as they are recorded and as a model writes them: round trips, and rotations as scipy knows them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from libs.action_form import ActionForm, is_form, size, written_dim
from libs.action_form.rotation import SIZES, from_matrix, is_rotation, is_usual, near, to_matrix
from libs.errors import BadInput

EULER = [form for form in SIZES if form.startswith("euler_")]
MANY = 500


def rotations(kind, rng, count=MANY):
    """(count, 3, 3): rotations of all sizes, and those where forms jump or lose an angle."""
    if kind == "any":
        return Rotation.random(count, random_state=rng).as_matrix()
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    axes[:6] = [*np.eye(3), *-np.eye(3)]
    angles = {
        "none": np.zeros(count),
        "small": 10.0 ** rng.uniform(-12, -3, count),
        "near half a turn": np.pi - rng.choice([0, 1e-15, 1e-9, 1e-4], count),
    }
    return Rotation.from_rotvec(axes * angles[kind][:, None]).as_matrix()


KINDS = ["any", "none", "small", "near half a turn"]


@pytest.mark.parametrize("form", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_rotation_back(form, kind):
    matrix = rotations(kind, np.random.default_rng(0))
    values = from_matrix(form, matrix)
    assert values.shape == (MANY, size(form)) and is_rotation(form, values).all()
    np.testing.assert_allclose(to_matrix(form, values), matrix, atol=1e-14)
    rounded = to_matrix(form, values.astype(np.float32))  # as data hold them: half a step of float32, times an angle
    np.testing.assert_allclose(rounded, matrix, atol=1e-6)


@pytest.mark.parametrize("form", EULER)
def test_a_gimbal_lock_loses_no_rotation(form):
    rng = np.random.default_rng(1)
    for away in (0.0, 1e-15, 1e-9, 1e-5):
        angles = rng.uniform(-np.pi, np.pi, (MANY, 3))
        angles[:, 1] = rng.choice([-1, 1], MANY) * (np.pi / 2 - away)
        matrix = Rotation.from_euler(form.removeprefix("euler_"), angles).as_matrix()
        np.testing.assert_allclose(to_matrix(form, angles), matrix, atol=1e-14)
        np.testing.assert_allclose(to_matrix(form, from_matrix(form, matrix)), matrix, atol=1e-14)


def test_forms_are_what_their_names_say_elsewhere():
    turns = Rotation.random(MANY, random_state=np.random.default_rng(2))
    matrix = turns.as_matrix()
    np.testing.assert_allclose(from_matrix("axis_angle", matrix), turns.as_rotvec(), atol=1e-14)
    xyzw = from_matrix("quaternion_xyzw", matrix)
    np.testing.assert_allclose(xyzw, turns.as_quat() * np.sign(turns.as_quat()[:, 3:]), atol=1e-14)
    np.testing.assert_array_equal(from_matrix("quaternion_wxyz", matrix), xyzw[:, [3, 0, 1, 2]])
    for form in EULER:
        angles = turns.as_euler(form.removeprefix("euler_"))
        np.testing.assert_allclose(from_matrix(form, matrix), angles, atol=1e-9)
    columns, rows = from_matrix("6d_columns", matrix), from_matrix("6d_rows", matrix)
    np.testing.assert_array_equal(columns, np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], axis=1))
    np.testing.assert_array_equal(rows, np.concatenate([matrix[:, 0], matrix[:, 1]], axis=1))


@pytest.mark.parametrize("form", SIZES)
def test_any_numbers_are_read_as_some_rotation(form):
    rng = np.random.default_rng(3)
    values = rng.normal(size=(MANY, size(form))) * 10.0 ** rng.uniform(-3, 1, (MANY, 1))
    values[0], values[1] = 0.0, 1.0  # no direction; two that are one
    matrix = to_matrix(form, values)
    np.testing.assert_allclose(matrix @ np.swapaxes(matrix, -1, -2), np.tile(np.eye(3), (MANY, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-9)


@pytest.mark.parametrize("form", ["axis_angle", "euler_xyz", "quaternion_wxyz"])
def test_a_path_without_jumps_comes_back_without_jumps(form):
    """Three turns about an axis: every form jumps on the way, but not beside what was there before."""
    axis = np.array([0.6, 0.0, 0.8]) if form != "euler_xyz" else np.array([0.0, 0.0, 1.0])
    angles = np.linspace(0.1, 6 * np.pi, 300)
    matrix = Rotation.from_rotvec(angles[:, None] * axis).as_matrix()
    path = [from_matrix(form, matrix[0])]
    for step in range(1, len(angles)):
        path.append(near(form, from_matrix(form, matrix[step]), path[-1]))
    np.testing.assert_allclose(to_matrix(form, np.array(path)), matrix, atol=1e-12)
    plain = from_matrix(form, matrix)
    assert np.abs(np.diff(plain, axis=0)).max() > 1.0
    jumps = np.abs(np.diff(path, axis=0)).max(axis=1)
    # An axis has no direction where nothing is turned: there, and only there, an axis and an angle begin anew.
    whole = np.abs(np.sin(angles / 2)) < 0.05 if form == "axis_angle" else np.zeros(300, bool)
    assert jumps[~whole[1:]].max() < 0.1


@pytest.mark.parametrize("form", ["quaternion_xyzw", "quaternion_wxyz", "6d_columns", "6d_rows"])
def test_what_is_no_rotation_is_told(form):
    values = from_matrix(form, rotations("any", np.random.default_rng(4)))
    assert is_rotation(form, values * 1.01).all() and not is_rotation(form, values * 1.1).any()
    assert not is_rotation(form, np.zeros(size(form)))


# ------------------------------------------------------------------------------------------------ whole actions


def arm(recorded, written, to_before=False, relative=True):
    """The form of position, rotation, gripper, with a state of gripper, position, rotation; and how to make chunks."""
    width = size(recorded)
    moved = tuple(range(3 + width)) if relative else ()
    return ActionForm(
        4 + width, moved, tuple(n + 1 for n in moved), to_before, (3,), recorded=recorded, written=written
    )


def chunks(recorded, kind, rng, horizon=5):
    """(n, H, A) chunks and (n, P) states in that form, as float32."""
    turns = rotations(kind, rng, 60 * (horizon + 1)).reshape(60, horizon + 1, 3, 3)
    values = from_matrix(recorded, turns)
    places = rng.normal(size=(60, horizon + 1, 3))
    actions = np.concatenate([places, values, rng.uniform(size=(60, horizon + 1, 1))], axis=-1)
    state = np.concatenate([rng.normal(size=(60, 1)), actions[:, 0, :-1]], axis=-1)
    return actions[:, 1:].astype(np.float32), state.astype(np.float32)


def turned(recorded, actions):
    return to_matrix(recorded, actions[..., 3 : 3 + size(recorded)])


FORMS = ["axis_angle", "quaternion_xyzw", "euler_xyz", "euler_ZYX", "6d_rows"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to_before", [False, True])
@pytest.mark.parametrize("written", ["axis_angle", "6d_columns", "quaternion_wxyz"])
@pytest.mark.parametrize("recorded", FORMS)
def test_differences_and_rotations_come_back(recorded, written, to_before, kind):
    form = arm(recorded, written, to_before)
    actions, state = chunks(recorded, kind, np.random.default_rng(5))
    text = form.write(actions, state)
    assert text.shape == (*actions.shape[:-1], 4 + size(written)) and text.dtype == np.float32
    again = form.read(text, state)
    assert again.shape == actions.shape and again.dtype == np.float32
    step = np.finfo(np.float32).eps
    tolerance = 8 * step * actions.shape[1]  # a rounding of numbers up to 4 per step of the chunk that adds up
    np.testing.assert_allclose(again[..., :3], actions[..., :3], atol=tolerance)
    np.testing.assert_array_equal(again[..., -1], actions[..., -1])
    # Quaternions and angles that are rounded to float32 turn by a few of its steps.
    np.testing.assert_allclose(turned(recorded, again), turned(recorded, actions), atol=4 * tolerance)


def test_a_difference_is_what_is_promised():
    actions = np.array([[[1.0, 5.0], [3.0, 6.0], [6.0, 7.0]]], np.float32)
    state = np.array([[9.0, 0.5]], np.float32)
    to_state = ActionForm(2, relative=(0,), origin=(1,))
    assert to_state.write(actions, state)[0].tolist() == [[0.5, 5], [2.5, 6], [5.5, 7]]
    to_before = ActionForm(2, relative=(0,), origin=(1,), to_before=True)
    assert to_before.write(actions, state)[0].tolist() == [[0.5, 5], [2, 6], [3, 7]]
    for form in (to_state, to_before):
        np.testing.assert_array_equal(form.read(form.write(actions, state), state), actions)


def test_rotations_lead_from_the_state_about_the_axes_of_the_frame():
    form = ActionForm(3, (0, 1, 2), (0, 1, 2), rotations=(0,))
    state, turn = np.array([0.3, -0.2, 1.0]), np.array([0.0, 0.0, 0.4])
    action = (Rotation.from_rotvec(turn) * Rotation.from_rotvec(state)).as_rotvec()
    np.testing.assert_allclose(form.write(action[None], state)[0], turn, atol=1e-7)


def test_without_differences_a_rotation_alone_changes_its_form():
    form = ActionForm(8, rotations=(3,), recorded="quaternion_wxyz", written="6d_columns")
    rng = np.random.default_rng(6)
    actions = rng.normal(size=(4, 2, 8)).astype(np.float32)
    actions[..., 3:7] = from_matrix("quaternion_wxyz", rotations("any", rng, 8).reshape(4, 2, 3, 3))
    written = form.write(actions, np.zeros((4, 0)))
    assert form.written_dim == written_dim(8, 1, "quaternion_wxyz", "6d_columns") == 10 == written.shape[-1]
    again = form.read(written, np.zeros((4, 0)))
    signs = np.sign((again[..., 3:7] * actions[..., 3:7]).sum(-1, keepdims=True))
    np.testing.assert_allclose(again[..., 3:7] * signs, actions[..., 3:7], atol=1e-6)
    np.testing.assert_array_equal(again[..., [0, 1, 2, 7]], actions[..., [0, 1, 2, 7]])


def test_angles_beyond_a_turn_come_back_as_they_were_recorded():
    path = np.linspace([3.0, 0.2, -2.0], [7.0, -0.2, -4.5], 6, dtype=np.float32)
    form = ActionForm(3, (0, 1, 2), (0, 1, 2), False, (0,), "euler_xyz", "6d_columns", usual=False)
    assert not form.are_usual(path)
    np.testing.assert_allclose(form.read(form.write(path[1:], path[0]), path[0]), path[1:], atol=1e-6)


@pytest.mark.parametrize("recorded", EULER)
def test_three_angles_on_the_other_side_of_the_gimbal_lock_come_back(recorded):
    """The second angle beyond a quarter of a turn: the same rotation has three others on this side."""
    path = np.linspace([0.4, 1.2, -2.0], [0.7, 2.9, -1.5], 9, dtype=np.float32)
    form = ActionForm(3, (0, 1, 2), (0, 1, 2), False, (0,), recorded, "6d_columns", usual=False)
    assert not form.are_usual(path)
    np.testing.assert_allclose(form.read(form.write(path[1:], path[0]), path[0]), path[1:], atol=1e-5)


@pytest.mark.parametrize("recorded", SIZES)
def test_what_turns_alike_is_no_difference(recorded):
    """Numbers of the same rotations that were recorded otherwise, beside which an answer is put to be compared."""
    width, rng = size(recorded), np.random.default_rng(9)
    form = ActionForm(width + 1, rotations=(1,), recorded=recorded, written="6d_columns")
    answers = rng.normal(size=(4, 5, width + 1)).astype(np.float32)
    answers[..., 1:] = from_matrix(recorded, rotations("any", rng, 20).reshape(4, 5, 3, 3))
    others = answers.copy()
    if recorded.startswith("quaternion"):
        others[..., 1:] *= -1
    elif recorded.startswith("euler"):
        others[..., 1:] = others[..., 1:] * [1, -1, 1] + np.pi
    elif recorded == "axis_angle":
        others[..., 1:] *= 1 - 2 * np.pi / np.linalg.norm(others[..., 1:], axis=-1, keepdims=True)
    beside = form.beside(answers, others + 0.01)
    assert beside.dtype == np.float32
    np.testing.assert_allclose(beside[..., 1:], others[..., 1:], atol=1e-4)
    np.testing.assert_array_equal(beside[..., 0], answers[..., 0])
    assert ActionForm(width + 1).beside(answers, others) is answers


@pytest.mark.parametrize("form", SIZES)
def test_usual_numbers_are_those_that_are_given(form):
    for kind in KINDS:
        assert is_usual(form, from_matrix(form, rotations(kind, np.random.default_rng(8))).astype(np.float32)).all()
    unusual = {"axis_angle": [0, 3.3, 0], "quaternion_xyzw": [0.6, 0, 0, -0.8], "quaternion_wxyz": [-0.8, 0.6, 0, 0]}
    unusual |= {name: [3.3, 0, 0] for name in EULER}
    if form in unusual:
        assert not is_usual(form, unusual[form])


def test_recorded_numbers_come_back_where_they_are_usual_ones():
    """From a state this side of half a turn to a goal beyond, recorded from the other side."""
    form = ActionForm(3, (0, 1, 2), (0, 1, 2), rotations=(0,))
    state, goal = np.array([0.0, 0.0, 3.0], np.float32), np.array([[0.0, 0.0, 3.2 - 2 * np.pi]], np.float32)
    assert form.are_usual(goal)
    np.testing.assert_allclose(form.read(form.write(goal, state), state), goal, atol=1e-6)


def test_plain_actions_are_left_alone():
    actions = np.ones((2, 3, 4), np.float32)
    form = ActionForm(4)
    assert form.plain and form.write(actions, np.zeros((2, 0))) is actions is form.read(actions, np.zeros((2, 0)))


def test_recorded_rotations_that_are_none_are_found():
    form = arm("quaternion_xyzw", "6d_columns")
    actions, state = chunks("quaternion_xyzw", "any", np.random.default_rng(7))
    actions, state = actions[:, 0], state.copy()
    assert not form.faults(actions, state).any()
    actions[3, 3:7] = 0
    state[5, 4:8] = 2
    assert np.flatnonzero(form.faults(actions, state)).tolist() == [3, 5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relative": (0, 1), "origin": (0,)}, "2 numbers .* the state has 1"),
        ({"relative": (7,), "origin": (0,)}, r"numbers 0 to 6, each once; got \[7\]"),
        ({"relative": (1, 1), "origin": (0, 1)}, r"each once; got \[1, 1\]"),
        ({"rotations": (5,)}, r"rotations: an action has the numbers 0 to 6.*\[5\]"),
        ({"rotations": (1, 3)}, "begin at 1 and 3 overlap"),
        ({"rotations": (3,), "relative": (2, 3), "origin": (0, 1)}, r"numbers 3 to 5 only \[3\]"),
    ],
)
def test_what_no_action_has_is_refused(change, words):
    with pytest.raises(BadInput, match=words):
        ActionForm(7, **change)


def test_names_of_forms():
    assert all(is_form(name) for name in ("axis_angle", "euler_XZY", "6d_rows"))
    assert not any(is_form(name) for name in ("euler", "euler_xyx", "euler_xYz", "matrix"))
