"""Rotations in the forms that data record them in, and back. All in float64, angles in radians.

axis_angle       3  the axis times the angle
quaternion_xyzw  4  of length 1; q and -q are one rotation
quaternion_wxyz  4
euler_xyz ...    3  three angles about three different axes. Lower case: about the fixed axes, one after the other, so
                    that R = R_z R_y R_x for xyz (roll, pitch, yaw of URDF and ROS); upper case: about the axes as they
                    have turned by then, so that R = R_x R_y R_z for XYZ
6d_columns       6  the first column of the matrix, then the second (Zhou et al., "On the Continuity of Rotation
                    Representations in Neural Networks", CVPR 2019, section 4.2): without jumps, other than the above
6d_rows          6  the first row, then the second: what PyTorch3D calls rotation_6d
"""

import itertools

import numpy as np

EULER = "euler_"
QUATERNIONS = {"quaternion_xyzw": (0, 1, 2, 3), "quaternion_wxyz": (1, 2, 3, 0)}  # where x, y, z and w stand
ORDERS = ["".join(order) for axes in ("xyz", "XYZ") for order in itertools.permutations(axes)]
SIZES = {"axis_angle": 3, **dict.fromkeys(QUATERNIONS, 4), "6d_columns": 6, "6d_rows": 6}
SIZES |= {EULER + order: 3 for order in ORDERS}
FORMS = ("axis_angle", *QUATERNIONS, "6d_columns", "6d_rows", "euler_xyz (or another order, XYZ: about turned axes)")
BEYOND = 0.01  # radians, or the like of a quaternion, behind which numbers are not usual ones that were rounded
LOOSE = 0.02  # how far from length 1, or from a right angle, recorded numbers may be that are still a rotation
TINY = 1e-8  # a length below that has no direction


def is_form(name: str) -> bool:
    """Whether there is a form of that name."""
    return name in SIZES


def size(form: str) -> int:
    """Numbers of a rotation in a form."""
    return SIZES[form]


def to_matrix(form: str, values: np.ndarray) -> np.ndarray:
    """(..., n) → (..., 3, 3). Any finite numbers make a rotation: lengths and angles are set right, and what has no
    direction gets one."""
    values = np.asarray(values, dtype=np.float64)
    if form == "axis_angle":
        return _of_quaternion(_turn(values))
    if form in QUATERNIONS:
        return _of_quaternion(values[..., QUATERNIONS[form]])
    if form.startswith(EULER):
        order, angles = _fixed(form, values)
        first, second, third = (_about(axis, angles[..., n]) for n, axis in enumerate(order))
        return third @ second @ first
    halves = values[..., :3], values[..., 3:]
    columns = _orthonormal(*halves)
    return columns if form == "6d_columns" else np.swapaxes(columns, -1, -2)


def from_matrix(form: str, matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) rotations → (..., n): angles up to pi, of a quaternion w >= 0."""
    if form == "axis_angle":
        quaternion = _to_quaternion(matrix)
        length = np.linalg.norm(quaternion[..., :3], axis=-1, keepdims=True)
        angle = 2 * np.arctan2(length, quaternion[..., 3:])
        return quaternion[..., :3] * np.where(length > TINY, angle / np.maximum(length, TINY), 2.0)
    if form in QUATERNIONS:
        quaternion = np.empty((*matrix.shape[:-2], 4))
        quaternion[..., QUATERNIONS[form]] = _to_quaternion(matrix)
        return quaternion
    if form.startswith(EULER):
        return _to_euler(form, matrix)
    rows = matrix if form == "6d_rows" else np.swapaxes(matrix, -1, -2)
    return rows[..., :2, :].reshape(*matrix.shape[:-2], 6)


def near(form: str, values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The numbers of the same rotations that are nearest to others, both (..., n): the other sign of a quaternion, or
    whole turns more or less, of three angles also the three on the other side of the gimbal lock, (a, b, c) and
    (a + pi, pi - b, c + pi). A rotation that is recorded without a jump is then answered without one."""
    if form in QUATERNIONS:
        return np.where((values * other).sum(-1, keepdims=True) < 0, -values, values)
    if form.startswith(EULER):
        both = np.stack([values, values * [1, -1, 1] + np.pi])
        both += 2 * np.pi * np.round((other - both) / (2 * np.pi))
        one, across = np.linalg.norm(both - other, axis=-1, keepdims=True)
        return np.where(across < one, both[1], both[0])
    if form == "axis_angle":
        angle = np.linalg.norm(values, axis=-1, keepdims=True)
        axis = values / np.maximum(angle, TINY)
        wanted = (axis * other).sum(-1, keepdims=True)
        turned = values + axis * 2 * np.pi * np.round((wanted - angle) / (2 * np.pi))
        return np.where(angle > TINY, turned, values)
    return values


def is_usual(form: str, values: np.ndarray) -> np.ndarray:
    """(..., n) → (...) bool: whether the numbers are those of all for a rotation that `from_matrix` gives, as far as
    rounding lets it be told; False: a sign or a number of turns says something more, where a path came from."""
    values = np.asarray(values, dtype=np.float64)
    if form in QUATERNIONS:
        return values[..., QUATERNIONS[form][3]] >= -BEYOND
    if form == "axis_angle":
        return np.linalg.norm(values, axis=-1) <= np.pi + BEYOND
    if form.startswith(EULER):
        return (np.abs(values) <= np.array([1, 0.5, 1]) * np.pi + BEYOND).all(-1)
    return np.ones(values.shape[:-1], dtype=bool)


def is_rotation(form: str, values: np.ndarray) -> np.ndarray:
    """(..., n) → (...) bool: whether numbers can have been recorded as a rotation in that form."""
    values = np.asarray(values, dtype=np.float64)
    if form in QUATERNIONS:
        return np.abs(np.linalg.norm(values, axis=-1) - 1) <= LOOSE
    if SIZES[form] != 6:
        return np.isfinite(values).all(-1)
    first, second = values[..., :3], values[..., 3:]
    lengths = np.stack([np.linalg.norm(one, axis=-1) for one in (first, second)])
    return (np.abs(lengths - 1) <= LOOSE).all(0) & (np.abs((first * second).sum(-1)) <= LOOSE)


def _turn(vector):
    """Axis times angle → quaternion x, y, z, w."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.concatenate([vector * np.sinc(angle / (2 * np.pi)) / 2, np.cos(angle / 2)], axis=-1)


def _of_quaternion(quaternion):
    """x, y, z, w of any length → matrix; of none, no rotation."""
    length = np.linalg.norm(quaternion, axis=-1, keepdims=True)
    unit = np.where(length > TINY, quaternion / np.maximum(length, TINY), [0.0, 0.0, 0.0, 1.0])
    x, y, z, w = np.moveaxis(unit, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _to_quaternion(matrix):
    """Matrix → x, y, z, w with w >= 0. Each of the four is the largest for some rotations, and divides the others there
    (Shepperd, "Quaternion from rotation matrix", 1978): exact to rounding everywhere, half a turn included."""
    m = np.moveaxis(matrix, (-2, -1), (0, 1))
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    squares = np.stack([1 + 2 * m[n, n] - trace for n in range(3)] + [1 + trace])  # of 2x, 2y, 2z, 2w
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    xw, yw, zw = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    x2, y2, z2, w2 = squares
    rows = np.stack([np.stack(row) for row in ([x2, xy, xz, xw], [xy, y2, yz, yw], [xz, yz, z2, zw], [xw, yw, zw, w2])])
    largest = np.argmax(squares, axis=0)
    chosen = np.moveaxis(np.take_along_axis(rows, largest[None, None], axis=0)[0], 0, -1)
    unit = chosen / np.linalg.norm(chosen, axis=-1, keepdims=True)
    return np.where(unit[..., 3:] < 0, -unit, unit)


def _fixed(form, angles):
    """(the axes as numbers, angles) about fixed axes: turned axes are those in the other order."""
    order = form.removeprefix(EULER)
    if order.isupper():
        order, angles = order[::-1].lower(), angles[..., ::-1]
    return ["xyz".index(axis) for axis in order], angles


def _about(axis, angle):
    """(...) angles → (..., 3, 3), about an axis of the frame."""
    after, last = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., axis, axis] = 1
    matrix[..., after, after] = matrix[..., last, last] = np.cos(angle)
    matrix[..., last, after] = np.sin(angle)
    matrix[..., after, last] = -np.sin(angle)
    return matrix


def _to_euler(form, matrix):
    """The first angle as its two numbers say; the others of what is left when it is turned back. Where the second axis
    has turned the first onto the third (a gimbal lock) the first angle is arbitrary, and the others fit it."""
    (i, j, k), _ = _fixed(form, np.zeros(3))
    sign = 1 if (j - i) % 3 == 1 else -1
    first = np.arctan2(sign * matrix[..., k, j], matrix[..., k, k])
    rest = matrix @ np.swapaxes(_about(i, first), -1, -2)
    second = np.arctan2(-sign * rest[..., k, i], rest[..., k, k])
    third = np.arctan2(-sign * rest[..., i, j], rest[..., j, j])
    angles = np.stack([first, second, third], axis=-1)
    return angles[..., ::-1] if form.removeprefix(EULER).isupper() else angles


def _orthonormal(first, second):
    """Two vectors → a matrix of columns: the first, what of the second is at right angles to it, and their product."""
    first = _unit(first, np.broadcast_to([1.0, 0.0, 0.0], first.shape))
    aside = np.eye(3)[np.argmin(np.abs(first), axis=-1)]  # the axis of the frame that lies farthest from it
    aside = aside - first * (first * aside).sum(-1, keepdims=True)
    second = second - first * (first * second).sum(-1, keepdims=True)
    second = _unit(second, _unit(aside, aside))
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def _unit(vector, otherwise):
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.where(length > TINY, vector / np.maximum(length, TINY), otherwise)
