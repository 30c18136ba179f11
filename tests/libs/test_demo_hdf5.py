"""Demonstration files: what is written is read back, from any process, and bad files are named."""

import errno
import os
import pickle
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from libs.demo_hdf5 import Demo, DemoFile, DemoWriter, stored
from libs.demo_hdf5.writer import merge_files
from tests.demo_files import ATTRS, synthetic_demo, write_synthetic_demo_file
from tests.tiny import ROOT

T, SIDE = 6, 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "demo.hdf5"


class Frames(Dataset):
    """Each item: the picture, and the process that read it."""

    def __init__(self, file):
        self.file = file

    def __len__(self):
        return len(self.file.demos) * T

    def __getitem__(self, index):
        return self.file.frame(f"demo_{index // T}", index % T, "agentview"), os.getpid()


def test_what_is_written_is_read_back_upright(path):
    demos = write_synthetic_demo_file(path, 2, T, SIDE, seed=0, instruction="pick up the soup")
    file = DemoFile(path)
    assert file.demos == ["demo_0", "demo_1"] and file.views == ["agentview", "eye_in_hand"]
    assert (file.instruction, file.render, file.num_frames("demo_1")) == ("pick up the soup", "fast", T)
    for name, demo in zip(file.demos, demos, strict=True):
        for field in ("actions", "states", "robot_states"):
            stored = getattr(file, field)(name)
            assert stored.dtype == np.float64 and np.array_equal(stored, getattr(demo, field))
        for view in file.views:
            for t in range(T):
                assert np.array_equal(file.frame(name, t, view), demo.obs[view][t])
            for beyond in (T, -1):
                with pytest.raises(IndexError, match=f"pictures 0..{T - 1}, not {beyond}"):
                    file.frame(name, beyond, view)
        assert file.demo_attrs(name)["model_file"] == "<mujoco/>"
        assert np.array_equal(file.demo_attrs(name)["init_state"], demo.states[0])


def test_layout_is_liberos(path):
    (demo,) = write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    with h5py.File(path, "r") as file:
        data = file["data"]
        assert data.attrs["macros_image_convention"] == "opengl"
        assert (data.attrs["num_demos"], data.attrs["total"]) == (1, T)
        assert data.attrs["tag"] == "libero-v1"  # LIBERO's check_dataset_integrity.py reads it
        assert {"env_name", "problem_info", "bddl_file_name", "bddl_file_content", "env_args"} <= set(data.attrs)
        group = data["demo_0"]
        assert group.attrs["num_samples"] == T and {"model_file", "init_state"} <= set(group.attrs)
        kinds = {name: (group[name].dtype.str[1:], group[name].shape[1:]) for name in group if name != "obs"}
        assert kinds == {
            "actions": ("f8", (7,)),
            "states": ("f8", (11,)),
            "robot_states": ("f8", (9,)),
            "rewards": ("u1", ()),
            "dones": ("u1", ()),
        }
        assert list(group["dones"]) == list(group["rewards"]) == [0] * (T - 1) + [1]
        obs = {name: (values.dtype.str[1:], values.shape[1:]) for name, values in group["obs"].items()}
        assert obs == {
            **{name: ("u1", (SIDE, SIDE, 3)) for name in ("agentview_rgb", "eye_in_hand_rgb")},
            "ee_states": ("f8", (6,)),
            "ee_pos": ("f8", (3,)),
            "ee_ori": ("f8", (3,)),
            "gripper_states": ("f8", (2,)),
            "joint_states": ("f8", (7,)),
        }
        pictures = group["obs/agentview_rgb"]
        assert np.array_equal(pictures[2], demo.obs["agentview"][2][::-1, ::-1])
        assert pictures.chunks == (1, SIDE, SIDE, 3) and pictures.compression == "gzip"


def test_demos_come_in_numeric_order(path):
    demos = write_synthetic_demo_file(path, 12, 2, 8, seed=0)
    file = DemoFile(path)
    assert file.demos == [f"demo_{number}" for number in range(12)]
    assert np.array_equal(file.actions("demo_10"), demos[10].actions)


def test_a_plain_file_from_elsewhere_opens(path):
    """Contiguous and uncompressed, no attributes of this project, masks, an instruction in LIBERO's older form."""
    demo = synthetic_demo(T, SIDE, seed=0)
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = demo.actions
        file["data/demo_0/obs/agentview_rgb"] = demo.obs["agentview"][:, ::-1, ::-1]
        file["data"].attrs["problem_info"] = '{"language_instruction": ["\\"", "g", "o", "\\""]}'
        file["mask/train"] = np.array([b"demo_0"])
    before = path.read_bytes()
    file = DemoFile(path)
    assert (file.instruction, file.render, file.views) == ("go", "standard", ["agentview"])
    assert file.mask("train") == ["demo_0"] and file.mask("valid") is None
    assert np.array_equal(file.frame("demo_0", 3, "agentview"), demo.obs["agentview"][3])
    with pytest.raises(ValueError, match=r"demo_0: no robot_states"):
        file.robot_states("demo_0")
    file.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("stored", "instruction"),
    [
        ("pick up the soup", "pick up the soup"),
        ('"pick up the soup"', "pick up the soup"),
        (["pick", "up", "the", "soup"], "pick up the soup"),  # words, as LIBERO's parser of task files gives them
        (['"pick', "up", "the", 'soup"'], "pick up the soup"),
        (["pick up ", " the soup"], "pick up the soup"),
        (list('"pick up the soup"'), "pick up the soup"),  # characters, as in some of LIBERO's demonstration files
        (["go"], "go"),
    ],
)
def test_an_instruction_is_a_text_or_a_list_of_words_or_of_characters(path, stored, instruction):
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0, instruction=stored)
    assert DemoFile(path).instruction == instruction


@pytest.mark.sim
@pytest.mark.libero
def test_liberos_parser_gives_the_instruction_as_words(path):
    """What a collector stores that writes the parsed task as it is."""
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    bddl = path.with_name("task.bddl")
    bddl.write_text("(define (problem X) (:domain robosuite) (:language Pick up the soup) (:goal (And (On a b))))")
    words = robosuite_parse_problem(str(bddl))["language_instruction"]
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0, instruction=words)
    assert words[:2] == ["pick", "up"] and DemoFile(path).instruction == "pick up the soup"


@pytest.mark.parametrize("stored", [["pick", 3], {"pick": "up"}, 7, None])
def test_an_instruction_of_another_kind_is_none(path, stored):
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0, instruction=stored)
    with pytest.raises(ValueError, match=r"demo\.hdf5: no language_instruction in data's problem_info"):
        _ = DemoFile(path).instruction


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_handles_are_safe_under_loader_workers(path, context):
    demos = write_synthetic_demo_file(path, 4, T, SIDE, seed=0)
    file = DemoFile(path)
    file.frame("demo_0", 0, "agentview")  # opens the handle of this process before the workers start
    loader = DataLoader(Frames(file), batch_size=T, num_workers=2, multiprocessing_context=context)
    readers = set()
    for demo, (pictures, processes) in zip(demos, loader, strict=True):
        assert np.array_equal(pictures.numpy(), demo.obs["agentview"])
        readers |= set(processes.tolist())
    assert len(readers) == 2 and os.getpid() not in readers
    assert np.array_equal(file.frame("demo_3", 5, "agentview"), demos[3].obs["agentview"][5])


def test_pickling_drops_the_handle(path):
    demos = write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    file = DemoFile(path)
    file.frame("demo_0", 0, "agentview")
    copy = pickle.loads(pickle.dumps(file))
    file.close()
    assert np.array_equal(copy.frame("demo_0", 1, "agentview"), demos[0].obs["agentview"][1])
    assert np.array_equal(file.frame("demo_0", 1, "agentview"), demos[0].obs["agentview"][1])  # opens again


def replaced(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


BAD = {
    "no group 'data'": lambda file: file.move("data", "other"),
    "holds no demos": lambda file: file.move("data/demo_0", "data/x") or file.__delitem__("data/demo_1"),
    "demo_1: no actions": lambda file: file.__delitem__("data/demo_1/actions"),
    "demo_0: no obs/agentview_rgb": lambda file: file.__delitem__("data/demo_0/obs/agentview_rgb"),
    "demo_1: no obs/agentview_rgb": lambda file: file.__delitem__("data/demo_1/obs"),
    r"demo_1: no obs/eye_in_hand_rgb": lambda file: file.__delitem__("data/demo_1/obs/eye_in_hand_rgb"),
    r"demo_1: actions have shape \(6, 6\)": replaced("data/demo_1/actions", np.zeros((T, 6))),
    r"demo_1: actions have shape \(0, 7\)": replaced("data/demo_1/actions", np.zeros((0, 7))),
    r"demo_1: obs/agentview_rgb .* float32": replaced("data/demo_1/obs/agentview_rgb", np.zeros((T, 8, 8, 3), "f4")),
    r"demo_1: obs/agentview_rgb .* \(5, ": replaced("data/demo_1/obs/agentview_rgb", np.zeros((5, 8, 8, 3), "u1")),
    r"demo_1: 6 actions, but robot_states .* \(3, 9\)": replaced("data/demo_1/robot_states", np.zeros((3, 9))),
    "mask/train is not a list": lambda file: file.create_dataset("mask/train", data=[1, 2]),
    "'mask' is an array": lambda file: file.create_dataset("mask", data=[1, 2]),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_file_is_named_with_its_demo(path, message):
    write_synthetic_demo_file(path, 2, T, SIDE, seed=0)
    with h5py.File(path, "r+") as file:
        BAD[message](file)
    with pytest.raises(ValueError, match=message) as error:
        DemoFile(path)
    assert str(path) in str(error.value)


def test_missing_and_truncated_files_are_named(path):
    with pytest.raises(ValueError, match=r"demo.hdf5 does not exist"):
        DemoFile(path)
    path.write_text("not HDF5")
    with pytest.raises(ValueError, match=r"demo.hdf5 cannot be opened"):
        DemoFile(path)
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    for size in (path.stat().st_size - 1, 3000, 0):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=r"demo.hdf5 cannot be opened.*truncated"):
            DemoFile(path)


STORED = {
    "gzip": {"chunks": (1, SIDE, SIDE, 3), "compression": "gzip", "compression_opts": 1},
    "gzip and shuffle": {"chunks": (1, SIDE, SIDE, 3), "compression": "gzip", "shuffle": True},
    "gzip, two frames together": {"chunks": (2, SIDE, SIDE, 3), "compression": "gzip"},
    "gzip, parts of a frame": {"chunks": (1, SIDE // 2, SIDE, 3), "compression": "gzip"},
    "lzf": {"chunks": (1, SIDE, SIDE, 3), "compression": "lzf"},
    "chunks": {"chunks": (1, SIDE, SIDE, 3)},
    "contiguous": {},
}


@pytest.mark.parametrize("storage", STORED.values(), ids=STORED)
@pytest.mark.parametrize("noise", [False, True], ids=["flat", "noise"])  # noise: gzip would not shrink it
def test_pictures_are_read_however_they_are_stored(path, storage, noise):
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    pictures = np.random.default_rng(0).integers(0, 256 if noise else 2, (T, SIDE, SIDE, 3), dtype=np.uint8)
    with h5py.File(path, "r+") as file:
        obs = file["data/demo_0/obs"]
        del obs["agentview_rgb"]
        obs.create_dataset("agentview_rgb", data=pictures, **storage)
    file = DemoFile(path)
    for t in range(T):
        np.testing.assert_array_equal(file.frame("demo_0", t, "agentview"), pictures[t, ::-1, ::-1])


def test_a_picture_that_was_never_written_is_black(path):
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    with h5py.File(path, "r+") as file:
        obs = file["data/demo_0/obs"]
        del obs["agentview_rgb"]
        pictures = obs.create_dataset("agentview_rgb", (T, SIDE, SIDE, 3), np.uint8, **STORED["gzip"])
        pictures[0] = 7
    file = DemoFile(path)
    assert file.frame("demo_0", 0, "agentview").min() == 7
    assert file.frame("demo_0", 1, "agentview").max() == 0


@pytest.mark.parametrize("library", ["deflate", "zlib"])
def test_a_damaged_frame_is_named(path, library, monkeypatch):
    if library == "zlib":
        monkeypatch.setattr(stored, "deflate", None)
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    with h5py.File(path, "r") as file:
        offset = file["data/demo_0/obs/agentview_rgb"].id.get_chunk_info(2).byte_offset
    with path.open("r+b") as raw:
        raw.seek(offset + 5)
        raw.write(b"\xff" * 40)
    file = DemoFile(path)
    file.frame("demo_0", 1, "agentview")
    with pytest.raises(ValueError, match=r"demo_0: obs/agentview_rgb at frame 2 is damaged"):
        file.frame("demo_0", 2, "agentview")


def replace_by_rename(path):
    write_synthetic_demo_file(path, 1, T, SIDE, seed=1)


def replace_by_the_same_size(path):
    """As `cp` does: the bytes of an open file change under its reader."""
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(8))


CHANGES = {
    "bytes then, .* now": replace_by_rename,
    "rewritten with the same size": replace_by_the_same_size,
    "it is gone": lambda path: path.unlink(),
    ", 0 now": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("open_before", [True, False])
@pytest.mark.parametrize("message", CHANGES)
def test_a_file_that_changes_while_it_is_in_use_is_named(path, message, open_before):
    """Whether this process has it open or, as a loader process, opens it again."""
    write_synthetic_demo_file(path, 1, T + 1, SIDE, seed=0)
    file = DemoFile(path)
    file.frame("demo_0", 0, "agentview")
    if not open_before:
        file = pickle.loads(pickle.dumps(file))
    os.utime(path, ns=(0, path.stat().st_mtime_ns))
    file.frame("demo_0", 0, "agentview")  # reading it, by others too, is no change
    if not open_before:
        file.close()
    CHANGES[message](path)
    with pytest.raises(ValueError, match=rf"demo\.hdf5 changed while it was in use: .*{message}"):
        file.frame("demo_0", 2, "agentview")
    with pytest.raises(ValueError, match="changed while it was in use"):
        file.actions("demo_0")


def test_a_file_that_a_network_disk_forgot_is_named(path, monkeypatch):
    """ESTALE: the server replaced the file that the handle belongs to."""
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    file = DemoFile(path)
    monkeypatch.setattr(
        os, "stat", lambda path: (_ for _ in ()).throw(OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
    )
    with pytest.raises(ValueError, match=r"changed while it was in use: it is gone \(Stale file handle\)"):
        file.frame("demo_0", 0, "agentview")


def test_an_exception_leaves_neither_file_nor_rest(path):
    with pytest.raises(KeyboardInterrupt), DemoWriter(path, ATTRS) as writer:
        writer.add(synthetic_demo(T, SIDE, seed=0))
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []


def test_a_kill_leaves_the_former_file(path):
    write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
    before = path.read_bytes()
    code = (
        "import os, sys\n"
        "from libs.demo_hdf5 import DemoWriter\n"
        "from tests.demo_files import ATTRS, synthetic_demo\n"
        "with DemoWriter(sys.argv[1], ATTRS) as writer:\n"
        f"    writer.add(synthetic_demo({T}, {SIDE}, seed=1))\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and path.read_bytes() == before
    (demo,) = write_synthetic_demo_file(path, 1, T, SIDE, seed=2)  # what the kill left is in nobody's way
    assert np.array_equal(DemoFile(path).actions("demo_0"), demo.actions)


def test_the_writer_refuses_disagreeing_lengths(path):
    demo = synthetic_demo(T, SIDE, seed=0)
    short = Demo(**{**vars(demo), "robot_states": demo.robot_states[:-1]})
    with pytest.raises(ValueError, match=r"demo_0: 6 actions but 5 robot_states"), DemoWriter(path, ATTRS) as writer:
        writer.add(short)
    assert not path.exists()


def test_merging_copies_as_stored_and_renumbers(path):
    parts = [path.with_name(f"part{number}.hdf5") for number in range(2)]
    demos = [demo for number, part in enumerate(parts) for demo in write_synthetic_demo_file(part, 2, T, SIDE, number)]
    merge_files(path, parts)
    file = DemoFile(path)
    assert file.demos == ["demo_0", "demo_1", "demo_2", "demo_3"]
    assert (file.attrs["num_demos"], file.attrs["total"], file.render) == (4, 4 * T, "fast")
    for name, demo in zip(file.demos, demos, strict=True):
        assert np.array_equal(file.actions(name), demo.actions)
        assert np.array_equal(file.frame(name, 1, "agentview"), demo.obs["agentview"][1])
    with h5py.File(path, "r") as merged, h5py.File(parts[1], "r") as part:
        ours, theirs = merged["data/demo_3/obs/agentview_rgb"].id, part["data/demo_1/obs/agentview_rgb"].id
        assert ours.read_direct_chunk((1, 0, 0, 0)) == theirs.read_direct_chunk((1, 0, 0, 0))


@pytest.mark.libero
def test_liberos_own_reader_accepts_the_file(path, capsys):
    from libero.libero.utils.dataset_utils import get_dataset_info

    write_synthetic_demo_file(path, 11, T, SIDE, seed=0, instruction="pick up the soup")
    get_dataset_info(str(path))
    said = capsys.readouterr().out
    assert "total transitions: 66" in said and "language instruction: pick up the soup" in said
    assert "observation key agentview_rgb with shape (6, 32, 32, 3)" in said
