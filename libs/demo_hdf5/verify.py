"""Checking demonstration files: mistakes that would otherwise show up as a policy that does not learn."""

import json
from pathlib import Path

import h5py
import numpy as np

from libs.demo_hdf5.key_map import LIBERO, KeyMap
from libs.demo_hdf5.opening import Unreadable, open_file
from libs.demo_hdf5.reader import DemoFile

TEXT_ATTRS = ("env_name", "bddl_file_name", "bddl_file_content")


def verify_demo_file(path: Path | str, key_map: KeyMap = LIBERO) -> list[str]:
    """Every problem of a demonstration file, one line each that begins with the demo; empty if there is none.

    Of every layout: what the map names is there, finite and of the right shape, pictures can be read and show
    something, lists and counts agree. LIBERO's own also has attributes, types and a range of the actions that its other
    readers rely on. What training asks of actions, instructions and demos beside each other: `rv_train.data.checks`.

    Reads every picture: about a thousand per second. Raises BadInput where the file cannot be used at all
    (see DemoFile).
    """
    demos, strict = DemoFile(path, key_map), key_map == LIBERO
    exact_gripper = "render" in demos.attrs and "regeneration" not in demos.attrs  # the experts'
    with open_file(path) as file:
        problems = _file_problems(demos, list(file.get("mask", {})), strict)
        for demo in demos.demos:
            group, length = demos.group(file, demo), demos.num_frames(demo)
            found, arrays = _read_arrays(group, _expected_arrays(key_map, length, strict))
            found += _number_problems({key: rows for key, rows in arrays.items() if key != key_map.actions.key})
            if strict:
                found += _action_problems(arrays["actions"], exact_gripper)
            found += _demo_attr_problems(group, length, strict)
            for view, key in key_map.views.items():
                if isinstance(group.get(key), h5py.Dataset):
                    found += _picture_problems(demos, demo, view)
                else:
                    found.append(f"{key} is missing")
            problems += [f"{demo}: {problem}" for problem in found]
    return problems


def _file_problems(demos: DemoFile, masks: list[str], strict: bool) -> list[str]:
    """Attributes of `data`, numbers of demos and frames, lists of demos; strict: no attribute may be missing."""
    attrs, found = demos.attrs, []
    if strict:
        for name in TEXT_ATTRS:
            if not isinstance(attrs.get(name), str) or not attrs[name]:
                found.append(f"attribute {name} is missing")
        found += _json_problems(attrs, "env_args", "env_name")
        found += _json_problems(attrs, "problem_info", "language_instruction")
    frames = sum(demos.num_frames(demo) for demo in demos.demos)
    found += _count_problems(attrs, "num_demos", len(demos.demos), "demos", strict)
    found += _count_problems(attrs, "total", frames, "frames", strict)
    if strict and "macros_image_convention" not in attrs:
        found.append("attribute macros_image_convention is missing")
    found = [f"data: {problem}" for problem in found]
    for name in masks:
        unknown = sorted(set(demos.mask(name) or ()) - set(demos.demos))
        if unknown:
            found.append(f"mask/{name}: lists demos that do not exist: {', '.join(unknown)}")
    return found


def _json_problems(attrs: dict, name: str, key: str) -> list[str]:
    if name not in attrs:
        return [f"attribute {name} is missing"]
    try:
        value = json.loads(attrs[name])
    except (TypeError, json.JSONDecodeError):
        return [f"attribute {name} is not JSON"]
    return [] if isinstance(value, dict) and value.get(key) else [f"attribute {name} has no {key}"]


def _count_problems(attrs: dict, name: str, count: int, what: str, strict: bool) -> list[str]:
    if name not in attrs:
        return [f"attribute {name} is missing"] if strict else []
    return [] if attrs[name] == count else [f"{name} is {attrs[name]}, but there are {count} {what}"]


def _expected_arrays(key_map: KeyMap, length: int, strict: bool) -> dict:
    """{key: (dtype or "numbers", shape)} of everything but the pictures."""
    numbers = "float64" if strict else "numbers"
    expected: dict[str, tuple[str, tuple]] = {
        key: (numbers, (length, dim)) for key, dim in (key_map.actions, *key_map.proprio.values())
    }
    if strict:
        expected["states"] = ("float64", (length, "any"))
        expected |= {name: ("uint8", (length,)) for name in ("rewards", "dones")}
    return expected


def _read_arrays(group: h5py.Group, expected: dict) -> tuple[list[str], dict]:
    """(problems of names, types and shapes; the arrays of the right shape)."""
    found, arrays = [], {}
    for name, (dtype, shape) in expected.items():
        data = group.get(name)
        if not isinstance(data, h5py.Dataset):
            found.append(f"{name} is missing")
            continue
        if data.dtype.kind not in "fiu" if dtype == "numbers" else data.dtype != dtype:
            found.append(f"{name} is {data.dtype}, expected {dtype}")
            if data.dtype.kind not in "fiu":
                continue
        if len(data.shape) == len(shape) and all(
            want in ("any", have) for have, want in zip(data.shape, shape, strict=True)
        ):
            try:
                arrays[name] = data[()]
            except OSError as error:  # damaged, or packed by a filter that is not installed
                found.append(f"{name} cannot be read ({error})")
        else:
            found.append(f"{name} has shape {data.shape}, expected ({', '.join(map(str, shape))})")
    return found, arrays


def _number_problems(arrays: dict) -> list[str]:
    """NaN and infinity; rewards and dones that are not 0, 0, ..., 1."""
    found = []
    for name, values in arrays.items():
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if bad.any():
            found.append(f"{name} has NaN or infinity, first at step {bad.argmax()}")
        if name in ("rewards", "dones"):
            wrong = values != (np.arange(len(values)) == len(values) - 1)
            if wrong.any():
                step = wrong.argmax()
                found.append(f"{name} is {values[step]} at step {step} of {len(values)}: only the last should be 1")
    return found


def _action_problems(actions: np.ndarray, exact_gripper: bool) -> list[str]:
    """(T, 7): every value in [-1, 1]; with exact_gripper the last one is -1 or 1."""
    found = []
    outside = (np.abs(actions) > 1).any(axis=1)
    if outside.any():
        largest = np.nanmax(np.abs(actions))
        found.append(f"actions reach {largest:g}, outside [-1, 1], first at step {outside.argmax()}")
    between = np.abs(actions[:, -1]) < 1
    if exact_gripper and between.any():
        step = between.argmax()
        found.append(f"the gripper's action is {actions[step, -1]:g} at step {step}, neither -1 nor 1")
    return found


def _demo_attr_problems(group: h5py.Group, length: int, strict: bool) -> list[str]:
    found = _count_problems(group.attrs, "num_samples", length, "frames", strict)
    if not strict:
        return found
    if not group.attrs.get("model_file"):
        found.append("attribute model_file is missing")
    if "init_state" not in group.attrs:
        return [*found, "attribute init_state is missing"]
    shape = np.shape(group.attrs["init_state"])
    if "states" in group and shape != group["states"].shape[1:]:
        found.append(f"init_state has shape {shape}, a state {group['states'].shape[1:]}")
    return found


def _picture_problems(demos: DemoFile, demo: str, view: str) -> list[str]:
    """Size, frames that cannot be read, and frames of a single colour."""
    name, resolution, found = demos.key_map.views[view], demos.attrs.get("resolution"), []
    height, width = demos.picture_size(demo, view)
    if resolution is not None and (height, width) != (resolution, resolution):
        found.append(f"{name} has {height} x {width} pixels, but resolution is {resolution}")
    unreadable, constant, frames = [], [], range(demos.num_frames(demo))
    for t in frames:
        try:
            frame = demos.frame(demo, t, view)
        except Unreadable:
            unreadable.append(t)
            continue
        if (frame == frame[0, 0]).all():
            constant.append(t)
    for bad, what in ((unreadable, "cannot be read (damaged)"), (constant, "have one colour only")):
        if bad:
            found.append(f"{name}: {len(bad)} of {len(frames)} pictures {what}, first frame {bad[0]}")
    return found
