"""tools/dev/gpu_proof.py at sizes for a CPU: two parts of it, one that is ended, one that fails."""

import json

import pytest

from tools.dev import gpu_proof

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("proof") / "proof.json"
    gpu_proof.main(["--tiny", "--parts", "small", "--out", str(out)])
    return out


def test_a_part_tells_its_figures(out):
    found = json.loads(out.read_text())
    part = found["parts"]["small"]
    assert part["ended"] == "done" and found["about"].startswith("CPU, Python ")
    assert [figure["name"] for figure in part["figures"]] == ["quickstart.yaml", "libero_small.yaml"]
    assert all(figure["unit"] == "samples/s" and figure["value"] > 0 for figure in part["figures"])
    assert "quickstart.yaml" in gpu_proof.table(found)


def test_a_part_that_takes_too_long_is_ended_and_others_stay(out, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu_proof.main(["--tiny", "--parts", "batch", "--seconds", "0.2", "--out", str(out)])
    assert stopped.value.code == 1
    found = json.loads(out.read_text())["parts"]
    assert found["batch"]["ended"].startswith("was ended after") and found["small"]["figures"]
    assert "not to its end: batch was ended" in capsys.readouterr().err


def test_a_part_that_fails_shows_how(out, capsys):
    """Another device than there is: the part's process refuses it."""
    with pytest.raises(SystemExit) as stopped:
        gpu_proof.main(["--tiny", "--parts", "bits", "--device", "cuda:7", "--out", str(out)])
    assert stopped.value.code == 1
    part = json.loads(out.read_text())["parts"]["bits"]
    assert part["ended"] == "failed with exit code 2" and "no GPU 7" in part["tail"][-1]


def test_a_part_that_is_interrupted_is_not_done_and_leaves_a_file_that_can_be_shown(tmp_path, monkeypatch):
    def interrupt(lines, deadline, part, figure_came):
        part["figures"].append({"name": "speed", "value": 1.5, "unit": "samples/s", "aim": "", "note": ""})
        figure_came()
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_proof, "_take_lines", interrupt)
    with pytest.raises(SystemExit):
        gpu_proof.main(["--tiny", "--parts", "small", "--out", str(tmp_path / "proof.json")])
    shown = gpu_proof.table(json.loads((tmp_path / "proof.json").read_text()))
    assert "(was interrupted, 0 s)" in shown and "1.5 samples/s" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--weights", "nowhere", "--tiny"], "--weights nowhere: no such folder"),
        (["--parts", "small"], "has no GPU that torch can use; --tiny runs on a CPU"),
    ],
)
def test_what_cannot_be_measured_is_refused(argv, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu_proof.main([*argv, "--out", str(tmp_path / "proof.json")])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_another_file_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(SystemExit) as stopped:
        gpu_proof.main(["--tiny", "--out", str(tmp_path / "other.json")])
    assert stopped.value.code == 2 and "holds something else" in capsys.readouterr().err


def test_the_parts_fit_into_eleven_minutes():
    assert sum(seconds for *_, seconds in gpu_proof.PARTS.values()) <= 660
