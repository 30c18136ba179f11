"""EpisodeWriter: somebody's own robot, recorded episode by episode."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile, EpisodeWriter, KeyMap, demo_files, verify_demo_file
from tests.tiny import ROOT

CAMERAS = {"front": (12, 16), "wrist": (10, 10)}
STATE = {"joints": 7, "gripper": 1}


def writer_for(folder, **more):
    options = {"cameras": list(CAMERAS), "state": STATE, "action_dim": 8, "rate": 20, **more}
    return EpisodeWriter(folder, **options)


def step(rng):
    pictures = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in CAMERAS.items()}
    return pictures, {part: rng.normal(size=dim) for part, dim in STATE.items()}, rng.uniform(-1, 1, 8)


def record(writer, seed, length=5, instruction="put the cup on the shelf"):
    rng = np.random.default_rng(seed)
    steps = [step(rng) for _ in range(length)]
    with writer.episode(instruction) as episode:
        for one in steps:
            episode.add(*one)
    return steps


@pytest.mark.parametrize("packed", [True, False])
def test_what_was_recorded_is_read(tmp_path, packed):
    folder = tmp_path / "mine"
    recorded = [record(writer_for(folder, packed=packed), seed, instruction=f"task {seed}") for seed in range(2)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "episode_000000.hdf5",
        "episode_000001.hdf5",
        "key_map.json",
    ]
    key_map = KeyMap.find(folder / "key_map.json")
    for seed, (path, steps) in enumerate(zip(demo_files(folder), recorded, strict=True)):
        file = DemoFile(path, key_map)
        assert file.instruction == f"task {seed}" and verify_demo_file(path, key_map) == []
        np.testing.assert_array_equal(file.actions("demo_0"), [action for *_, action in steps])
        parts = np.concatenate([[state[part] for _, state, _ in steps] for part in STATE], axis=1)
        np.testing.assert_array_equal(file.proprio("demo_0", list(STATE)), parts.astype(np.float32))
        for view in CAMERAS:
            for t, (pictures, *_) in enumerate(steps):
                np.testing.assert_array_equal(file.frame("demo_0", t, view), pictures[view])


def test_an_episode_that_fails_leaves_nothing_and_the_next_goes_on(tmp_path):
    writer = writer_for(tmp_path)
    record(writer, 0)
    with pytest.raises(KeyboardInterrupt), writer.episode("go") as episode:
        episode.add(*step(np.random.default_rng(1)))
        raise KeyboardInterrupt
    assert len(demo_files(tmp_path)) == 1 and len(list(tmp_path.iterdir())) == 2
    record(writer_for(tmp_path), 2)  # another day
    assert [path.name for path in demo_files(tmp_path)] == ["episode_000000.hdf5", "episode_000001.hdf5"]


@pytest.mark.slow
def test_a_kill_in_the_middle_costs_that_episode_only(tmp_path):
    code = (
        "import sys; from tests.libs.test_episodes import *\n"
        f"writer = writer_for({str(tmp_path)!r}); record(writer, 0)\n"
        "with writer.episode('go') as episode:\n"
        "    episode.add(*step(np.random.default_rng(1)))\n"
        "    with episode._output.writing() as file: file.flush()\n"
        "    print('now', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    )
    assert child.stdout.readline() == b"now\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert [path.name for path in demo_files(tmp_path)] == ["episode_000000.hdf5"]
    steps = record(writer_for(tmp_path), 2)
    second = DemoFile(demo_files(tmp_path)[1], KeyMap.find(tmp_path / "key_map.json"))
    np.testing.assert_array_equal(second.frame("demo_0", 1, "wrist"), steps[1][0]["wrist"])
    assert len(list(tmp_path.iterdir())) == 3


def test_the_lines_of_the_documentation_run(tmp_path):
    """Ten lines, as docs/record_your_robot.md shows them, with a robot that is none."""
    text = (ROOT / "docs/record_your_robot.md").read_text()
    lines = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len(lines.splitlines()) <= 12
    rng, left = np.random.default_rng(0), [0]

    class Robot:
        def is_driven(self):
            left[0] = (left[0] or 5) - 1
            return left[0] > 0

        def look(self):
            return *step(rng)[:1], rng.normal(size=7), rng.normal(size=1)

        def step(self):
            return rng.uniform(-1, 1, 8)

    exec(lines.replace("data/mine", str(tmp_path / "mine")).replace("range(50)", "range(3)"), {"robot": Robot()})
    paths = demo_files(tmp_path / "mine")
    assert [DemoFile(path, KeyMap.find(tmp_path / "mine/key_map.json")).num_frames("demo_0") for path in paths] == [
        4
    ] * 3


def refused(change, tmp_path):
    pictures, state, action = step(np.random.default_rng(0))
    one = change(pictures, state, action) or (pictures, state, action)
    with writer_for(tmp_path).episode("go") as episode:
        episode.add(*step(np.random.default_rng(1)))
        episode.add(*one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s, a: p.update(wrist=None), "step 1: camera wrist is missing"),
        (
            lambda p, s, a: p.update(wrist=p["front"]),
            r"wrist has shape \(12, 16, 3\), expected \(10, 10, 3\)",
        ),
        (lambda p, s, a: p.update(wrist=p["wrist"] / 255), "camera wrist is missing, or no"),
        (lambda p, s, a: s.update(joints=None), "step 1: joints is missing, expected 7 numbers"),
        (lambda p, s, a: s.update(gripper=np.zeros(2)), r"step 1: gripper has shape \(2,\), expected 1"),
        (lambda p, s, a: (p, s, a[:3]), r"step 1: the action has shape \(3,\), expected 8 numbers"),
        (lambda p, s, a: (p, s, a * np.nan), "step 1: the action holds a number that is not finite"),
    ],
)
def test_a_step_that_does_not_fit_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        refused(change, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["key_map.json"]


def test_what_makes_no_sense_is_refused(tmp_path):
    for more, message in (
        ({"rate": 0}, "a rate is frames a second"),
        ({"cameras": ["front", "joints"]}, "'joints' names two things"),
        ({"cameras": ["front view"]}, "'front view' is no name"),
        ({"action_dim": 0}, "dim must be a whole number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            writer_for(tmp_path / "new", **more)
        assert not list((tmp_path / "new").glob("*")) if (tmp_path / "new").exists() else True
    writer = writer_for(tmp_path / "mine")
    with pytest.raises(ValueError, match="was recorded with other cameras, states, actions or rate"):
        writer_for(tmp_path / "mine", action_dim=7)
    with pytest.raises(ValueError, match="was recorded with other"):
        writer_for(tmp_path / "mine", rate=10)
    with pytest.raises(ValueError, match="without a step"), writer.episode("go"):
        pass
    with pytest.raises(ValueError, match="says in words"), writer.episode(" ?"):
        pass
