"""tools/build_manifest.py: the same bytes whatever happens on the way."""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from libs.action_text import ActionTextCodec
from libs.demo_hdf5 import DemoFile, KeyMap
from libs.lerobot_data import SetWriter, write_episode
from libs.manifest import read_picture
from rv_train.data.hdf5 import DemoDataset
from rv_train.data.stats import read_stats
from tests.demo_files import write_synthetic_demo_file, write_synthetic_isaac_file
from tests.lerobot_sets import made_frames, made_spec
from tests.manifests import build
from tests.refusal import refusal
from tests.tiny import ROOT
from tools import compute_stats
from tools.build_manifest import main

VIEWS = ("agentview", "eye_in_hand")


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    write_synthetic_demo_file(folder / "a_demo.hdf5", 12, 4, 32, seed=0)
    write_synthetic_demo_file(folder / "sub/b_demo.hdf5", 2, 5, 32, seed=50, instruction="another")
    return folder


@pytest.fixture(scope="module")
def built(demos, tmp_path_factory):
    return build(tmp_path_factory.mktemp("manifests") / "png", demos)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


refused = functools.partial(refusal, main)


def test_every_frame_is_a_line_and_a_picture_per_view(demos, built, capsys):
    lines = [json.loads(line) for line in (built / "manifest.jsonl").read_text().splitlines()]
    dataset = DemoDataset([demos / "a_demo.hdf5", demos / "sub/b_demo.hdf5"], VIEWS, 2)
    stats = read_stats(built)
    codec = ActionTextCodec(stats["min"], stats["max"], 100)
    assert len(lines) == len(dataset) == 58
    for line, sample in zip(lines, dataset, strict=False):
        assert line["target_action_text"] == codec.encode(sample.actions[None])[0]
        assert (line["demo"], line["frame"], line["instruction"]) == (sample.demo, sample.frame, sample.instruction)
        assert (line["file"], line["H"], line["D"]) == (sample.file.rsplit("/", 1)[1][:-5], 2, 7)
        for view, picture in zip(VIEWS, sample.views, strict=True):  # upright, as DemoFile gives it
            np.testing.assert_array_equal(read_picture(built / line["image_paths"][view]), picture)
    files = content(built)
    assert len(files) == 58 * 2 + 14 + 5 and not [name for name in files if "tmp" in name or name.startswith(".")]
    assert len(list((built / "frames/a_demo/demo_11").iterdir())) == 4 * 2 + 1
    info = json.loads(files["manifest_info.json"])
    expected = {"num_samples": 58, "num_demos": 14, "pictures": "upright RGB", "render": "fast", "resolution": 32}
    assert {key: info[key] for key in expected} == expected
    assert read_stats(built / "action_stats.npz") == stats
    for folder in (built, built / "frames/b_demo/demo_1"):
        check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        assert subprocess.run(check, cwd=folder, capture_output=True).returncode == 0
    main([str(demos), "--out", str(built), "--horizon", "2", "--num_bins", "100"])  # there is nothing to do
    out = capsys.readouterr().out
    assert out == f"{built}/manifest.jsonl  58 samples of 14 demos in 2 files, 2 views as png, upright\n"
    assert content(built) == files


def test_a_last_action_is_repeated_at_the_end_of_a_demo(demos, built):
    line = json.loads((built / "manifest.jsonl").read_text().splitlines()[3])
    numbers = line["target_action_text"].split()
    assert line["frame"] == 3 and numbers[:7] == numbers[7:]


def kill_at(number, monkeypatch, run):
    """Run until the `number`-th time that something is to be renamed; False where it needs fewer."""
    real, count = {name: getattr(os, name) for name in ("rename", "replace")}, itertools.count(1)

    def renaming(name):
        def rename(*args):
            if next(count) == number:
                raise SystemError("killed here")
            return real[name](*args)

        return rename

    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(os, name, renaming(name))
        try:
            run()
        except SystemError:
            return True
    return False


def test_a_kill_between_any_two_steps_does_not_change_a_byte(tmp_path, monkeypatch):
    write_synthetic_demo_file(tmp_path / "a.hdf5", 2, 2, 32, seed=0)
    whole = content(build(tmp_path / "whole", tmp_path / "a.hdf5"))
    for number in range(1, 100):
        out = tmp_path / f"killed_{number}"
        if not kill_at(number, monkeypatch, lambda out=out: build(out, tmp_path / "a.hdf5")):
            break
        assert not (out / "manifest.jsonl").exists()
        kill_at(number // 2, monkeypatch, lambda out=out: build(out, tmp_path / "a.hdf5"))  # and once more
        assert content(build(out, tmp_path / "a.hdf5")) == whole
    assert number == 1 + 1 + 2 * 2 + 4 + 1  # settings; two a demo; the files beside the manifest; the manifest


def workers_of(pid):
    """Numbers of its processes that build demos."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            found = [int(child) for child in file.read().split()]
        return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


@pytest.mark.slow
def test_kill_9_of_whatever_does_not_change_a_byte(tmp_path):
    """Real processes: the parent is killed once some demos are done, then a worker; and none of them is left behind."""
    write_synthetic_demo_file(tmp_path / "a.hdf5", 16, 30, 64, seed=0)
    whole, out = build(tmp_path / "whole", tmp_path / "a.hdf5"), tmp_path / "killed"
    command = [sys.executable, "tools/build_manifest.py", tmp_path / "a.hdf5", "--out", out, "--workers", "2"]
    command = [str(part) for part in [*command, "--horizon", "2", "--num_bins", "100"]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start():
        before = len(list(out.glob(".parts/*/*.jsonl")))
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        while process.poll() is None and len(list(out.glob(".parts/*/*.jsonl"))) < before + 2:
            time.sleep(0.002)
        time.sleep(0.03)  # in the middle of a demo
        workers = workers_of(process.pid)
        assert len(workers) == 2 and process.poll() is None
        return process, workers

    def end(process, workers):
        errors = process.communicate(timeout=60)[1].decode()
        deadline = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{worker}") for worker in workers):  # they end with their parent
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (out / "manifest.jsonl").exists()
        return errors

    process, workers = start()
    process.kill()
    end(process, workers)
    process, workers = start()
    os.kill(workers[0], signal.SIGKILL)
    error = end(process, workers).splitlines()[-1]
    assert error.startswith(f"RuntimeError: {out}: a process died (") and error.endswith("; the same command continues")
    assert process.returncode == 1
    assert content(build(out, tmp_path / "a.hdf5")) == content(whole)


def test_what_was_begun_otherwise_is_refused(demos, built, tmp_path, capsys):
    small = ["--horizon", "2", "--num_bins", "100"]
    assert "horizon 2, not 8; num_bins 100, not 1000" in refused(capsys, demos, "--out", built)
    assert "picture_format 'png', not 'jpeg'" in refused(capsys, demos, "--out", built, *small, "--format", "jpeg")
    assert "fingerprint" in refused(capsys, demos / "a_demo.hdf5", "--out", built, *small)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").touch()
    assert "mine is not empty" in refused(capsys, demos, "--out", tmp_path / "mine", *small)
    parts = tmp_path / "begun/.parts"
    parts.mkdir(parents=True)
    (parts / "settings.json").write_text(json.dumps({"horizon": 3}))
    assert "horizon 3, not 2" in refused(capsys, demos, "--out", tmp_path / "begun", *small)
    lock = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", lock, parts / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()
    assert "begun is in use: another process builds" in refused(capsys, demos, "--out", tmp_path / "begun", *small)
    other.communicate()


def test_bad_arguments_and_files_cost_one_line(demos, tmp_path, capsys):
    out = tmp_path / "out"
    np.savez(tmp_path / "six.npz", action_mins=[-1.0] * 6, action_maxs=[1.0] * 6)
    delta = ["ACTION.MODE", "delta", "ACTION.DELTA", "[0]", "ACTION.STATE", "['ee_pos[0]']"]
    compute_stats.main([str(demos), *delta, "--proprio", "ee_pos", "--out", str(tmp_path / "delta.json")])
    capsys.readouterr()
    for arguments, message in (
        (["no/such.hdf5"], "no/such.hdf5 does not exist"),
        ([demos, "--views", "top"], "key map libero has no view 'top'"),
        ([demos, "--workers", "0"], "--workers must be between 1 and 4096, not 0"),
        ([demos, "--quality", "101"], "--quality must be between 1 and 100"),
        ([demos, "--horizon", "0"], "--horizon must be between"),
        ([demos, "--stats", tmp_path / "no.json"], "no.json does not exist"),
        ([demos, "--stats", tmp_path / "six.npz"], "six.npz is of 6 numbers an action, a manifest of these"),
        ([demos, "--stats", tmp_path / "delta.json"], "delta.json is of actions written as {'dim': 7, 'delta'"),
    ):
        assert message in refused(capsys, *arguments, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_demonstration_is_named(tmp_path, capsys, workers):
    path = tmp_path / "a.hdf5"
    write_synthetic_demo_file(path, 3, 6, 32, seed=0)
    with h5py.File(path) as file:
        place = file["data/demo_2/obs/agentview_rgb"].id.get_chunk_info(4).byte_offset
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\0" * 64)
    error = refused(capsys, path, "--out", tmp_path / "out", "--workers", workers)
    assert "a.hdf5, demo_2: obs/agentview_rgb at frame 4 is damaged" in error
    finished = {path.name for path in tmp_path.glob("out/frames/a/demo_*")}
    assert finished == {"demo_0", "demo_1"} if workers == 1 else finished <= {"demo_0", "demo_1"}
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_one_view_has_one_path_and_given_statistics_clip(demos, tmp_path, capsys):
    np.savez(tmp_path / "narrow.npz", action_mins=[-1.0] * 7, action_maxs=[1.0] * 6 + [0.5])
    out = build(tmp_path / "one", demos, views="eye_in_hand", stats=tmp_path / "narrow.npz")
    assert "58 action values clipped" in capsys.readouterr().out
    line = json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
    assert line["image_path"] == "frames/a_demo/demo_0/000000_eye_in_hand.png" and "image_paths" not in line
    assert line["target_action_text"].split()[6] == "100" and read_stats(out)["max"][6] == 0.5


def test_a_line_has_the_instruction_of_its_own_frame(tmp_path):
    """In a LeRobot set what is to be done may change in the middle of an episode."""
    spec, goals = made_spec(size=(32, 32)), ["open it"] * 3 + ["close it"] * 2
    with SetWriter(tmp_path / "set", spec, 1) as writer:
        write_episode(writer.part(0), spec, 0, made_frames(0, 5, (32, 32), goals))
        writer.finish()
    lines = (build(tmp_path / "out", tmp_path / "set") / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["instruction"] for line in lines] == goals


def test_lists_of_demos_to_hold_out_go_along(tmp_path):
    path = tmp_path / "a.hdf5"
    write_synthetic_demo_file(path, 3, 2, 32, seed=0)
    with h5py.File(path, "r+") as file:
        file["mask/train"], file["mask/valid"] = np.array([b"demo_2"]), np.array([b"demo_0"])
    lines = map(json.loads, (build(tmp_path / "out", path) / "manifest.jsonl").read_text().splitlines())
    assert [line["split"] for line in lines] == ["valid"] * 2 + ["neither"] * 2 + ["train"] * 2
    assert DemoFile(path).mask("train") == ["demo_2"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_of_another_layout(tmp_path, workers):
    write_synthetic_isaac_file(tmp_path / "isaac.hdf5", 2, 3, 32, seed=0)
    layout = ["--key_map", "isaac_cosmos", "--instruction", "stack two"]
    main(
        [str(tmp_path / "isaac.hdf5"), *layout, "--out", str(tmp_path / "out"), "--horizon", "2", "--workers", workers]
    )
    key_map = KeyMap.find("isaac_cosmos")
    dataset = DemoDataset([tmp_path / "isaac.hdf5"], key_map.views, 2, key_map, instruction="stack two")
    assert read_stats(tmp_path / "out")["fingerprint"] == dataset.fingerprint()
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    for line, sample in zip(lines, dataset, strict=False):
        assert (line["demo"], line["frame"], line["instruction"]) == (sample.demo, sample.frame, "stack two")
        assert list(line["image_paths"]) == ["table_cam", "wrist_cam"]
        for path, picture in zip(line["image_paths"].values(), sample.views, strict=True):
            np.testing.assert_array_equal(read_picture(tmp_path / "out" / path), picture)
    assert len(lines) == len(dataset) == 6
