"""tools/compute_stats.py gives the file that training would store, byte for byte."""

import numpy as np
import pytest

from rv_train.data.load import load_data
from rv_train.data.stats import read_stats, write_stats
from tests.demo_files import write_synthetic_demo_file, write_synthetic_isaac_file
from tests.tiny import tiny_cfg
from tools.compute_stats import main


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos")
    write_synthetic_demo_file(folder / "a_demo.hdf5", 3, 4, 32, seed=0)
    write_synthetic_demo_file(folder / "b_demo.hdf5", 2, 5, 32, seed=9, instruction="another")
    return folder


def test_the_file_is_the_trainers(demos, tmp_path, capsys):
    out = tmp_path / "new/stats.json"
    main([str(demos), "--out", str(out)])
    printed = capsys.readouterr().out.splitlines()
    data = load_data(tiny_cfg(DATA__FILES=[str(demos)]))
    write_stats(data.action_stats, tmp_path)
    assert out.read_bytes() == (tmp_path / "action_stats.json").read_bytes()
    assert printed[0].split() == ["dim", "min", "q01", "mean", "std", "q99", "max"] and len(printed) == 1 + 7 + 2
    assert [float(value) for value in printed[1].split()[1:]] == pytest.approx(
        [data.action_stats[name][0] for name in ("min", "q01", "mean", "std", "q99", "max")], abs=1e-5
    )
    assert printed[8] == f"22 actions of 5 demos, data fingerprint {data.info['fingerprint']}"
    assert load_data(tiny_cfg(DATA__FILES=[str(demos)], DATA__STATS=str(out))).action_stats == data.action_stats


def test_a_file_is_not_overwritten_unasked(demos, tmp_path, capsys):
    out = tmp_path / "stats.json"
    out.write_text("precious")
    for arguments, message in (
        ([str(demos), "--out", str(out)], "stats.json exists: give another --out, or --force"),
        ([str(demos), "--out", str(tmp_path)], "is a folder"),
        (["no/such.hdf5", "--out", str(tmp_path / "x")], "no/such.hdf5 does not exist"),
        ([str(demos), "--out", str(tmp_path / "x"), "--views", "wrist"], "key map libero has no view 'wrist'"),
        ([str(demos), "--out", str(tmp_path / "x"), "--proprio", "eef_pos"], "libero has no proprio part 'eef_pos'"),
        ([str(demos), "--out", str(tmp_path / "x"), "--key_map", "isaac_cosmos"], "demo_0: no obs/table_cam"),
        (
            [str(demos), "--out", str(tmp_path / "x"), "--key_map", "isaac"],
            "no key map 'isaac': there are aloha, isaac_cosmos",
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert out.read_text() == "precious" and not (tmp_path / "x").exists()
    main([str(demos), "--out", str(out), "--force"])
    assert out.read_text().startswith('{\n "min"')


def test_numpys_format_says_the_same(demos, tmp_path):
    main([str(demos), "--out", str(tmp_path / "stats.npz")])
    main([str(demos), "--out", str(tmp_path / "stats.json")])
    with np.load(tmp_path / "stats.npz") as arrays:
        assert arrays["action_mins"].shape == arrays["action_maxs"].shape == (7,)
        assert arrays["action_mins"].dtype == np.float64
    assert read_stats(tmp_path / "stats.npz") == read_stats(tmp_path / "stats.json")
    data = load_data(tiny_cfg(DATA__FILES=[str(demos)], DATA__STATS=str(tmp_path / "stats.npz")))
    assert data.action_stats == load_data(tiny_cfg(DATA__FILES=[str(demos)])).action_stats


@pytest.mark.parametrize("name", ["stats.json", "stats.npz"])
def test_parts_of_the_robots_state_in_another_layout(tmp_path, capsys, name):
    demos = tmp_path / "isaac.hdf5"
    write_synthetic_isaac_file(demos, 3, 4, 32, seed=0)
    layout = ["--key_map", "isaac_cosmos", "--proprio", "gripper_pos", "eef_pos", "--instruction", "stack"]
    main([str(demos), *layout, "--out", str(tmp_path / name)])
    printed = capsys.readouterr().out.splitlines()
    more = {"MODEL__NAME": "flow_expert", "DATA__KEY_MAP": "isaac_cosmos", "DATA__PROPRIO": ["gripper_pos", "eef_pos"]}
    more |= {"DATA__VIEWS": ["table_cam", "wrist_cam"], "DATA__INSTRUCTION": "stack", "DATA__FILES": [str(demos)]}
    data = load_data(tiny_cfg(**more))
    assert read_stats(tmp_path / name) == data.action_stats
    assert load_data(tiny_cfg(**more, DATA__STATS=str(tmp_path / name))).action_stats == data.action_stats
    assert printed[8].split() == ["proprio", "min", "mean", "std", "max"] and len(printed) == 1 + 7 + 1 + 5 + 2
    assert printed[11].split()[:2] == ["eef_pos", "0"]
    assert [float(value) for value in printed[11].split()[2:]] == pytest.approx(
        [data.action_stats["proprio"][key][2] for key in ("min", "mean", "std", "max")], abs=1e-5
    )


def test_what_never_changes_is_said(demos, tmp_path, capsys):
    main([str(demos), "--out", str(tmp_path / "stats.json")])
    assert (
        capsys.readouterr().err
        == "warning: dimension 6 of the actions never changes: it is 1 in every frame, and will be in every answer\n"
    )


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"PK nonsense"), "is not a readable .npz file"),
        (lambda path: path.write_bytes(b""), "is not a readable .npz file"),
        (lambda path: np.save(path.open("wb"), np.ones(7)), "is not a readable .npz file"),
        (lambda path: np.savez(path, action_mins=np.array([None] * 7), action_maxs=np.ones(7)), "is not a readable"),
        (lambda path: np.savez(path, mins=np.zeros(7), action_maxs=np.ones(7)), "no list 'action_mins'"),
        (lambda path: np.savez(path, action_mins=np.zeros(7), action_maxs=np.ones((1, 7))), "must hold finite numbers"),
        (lambda path: np.savez(path, action_mins=np.zeros(7), action_maxs=np.ones(6)), "'max' has 6"),
        (lambda path: np.savez(path, action_mins=np.zeros(7), action_maxs=np.full(7, np.nan)), "got nan"),
    ],
)
def test_broken_statistics_in_numpys_format_are_refused(tmp_path, write, message):
    write(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=rf"x\.npz.*{message}"):
        read_stats(tmp_path / "x.npz")
