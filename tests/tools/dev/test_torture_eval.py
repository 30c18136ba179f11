"""tools/dev/torture_eval.py in short: an evaluation that is killed twice ends as if nothing had happened."""

import re
import uuid

import imageio.v2 as imageio
import numpy as np
import pytest

from tests.rv_eval.records import record, write
from tests.tiny import make_tiny_checkpoint
from tools.dev import torture_eval
from tools.dev.processes import processes
from tools.dev.torture_eval import MARK, differing_videos, main, unfinished_files


@pytest.mark.sim
@pytest.mark.libero
def test_two_kills_leave_no_trace(tmp_path, capsys, monkeypatch):
    mark = uuid.uuid4()  # known here, so that another torture on this machine is not taken for what is left of this one
    monkeypatch.setattr(uuid, "uuid4", lambda: mark)
    run = make_tiny_checkpoint(tmp_path / "run")
    # Seed 5: everything at once, right after a result; then the simulator.
    arguments = ["--model_path", str(run), "--kills", "2", "--seed", "5", "--num_envs", "1"]
    main([*arguments, "--episodes", "4", "--num_steps", "20", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    kills = re.findall(r"^ +(\d)  (\w+) +(start-up|episodes|result) ", said, re.MULTILINE)
    assert [(number, victim) for number, victim, _ in kills] == [("1", "all"), ("2", "simulator")]
    assert "killed 2 times" in said and re.search("^equal: 4 episodes, 0 of them solved; [01] inc", said, re.MULTILINE)
    assert len((tmp_path / "out/killed/results.jsonl").read_text().splitlines()) == 4
    assert not processes(f"{MARK}={mark}")


def test_what_is_left_behind_is_found(tmp_path):
    for name in ("videos/a.part12.mp4", "results.jsonl", "report.tmp", "videos/whole.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert unfinished_files(tmp_path) == [
        f"left behind: {tmp_path / 'report.tmp'}",
        f"left behind: {tmp_path / 'videos/a.part12.mp4'}",
    ]


def evaluation(folder, lengths):
    """A log folder whose episode i has a video of lengths[i] frames."""
    (folder / "videos").mkdir(parents=True)
    for number, length in enumerate(lengths):
        imageio.mimwrite(folder / f"videos/{number}.mp4", np.zeros((length, 32, 32, 3), np.uint8), macro_block_size=2)
    return write(folder / "results.jsonl", [record(init_state=i, video=f"videos/{i}.mp4") for i in range(len(lengths))])


@pytest.mark.slow
def test_every_video_must_be_whole(tmp_path):
    whole, same = evaluation(tmp_path / "whole", (5, 7)), evaluation(tmp_path / "same", (5, 7))
    assert differing_videos(whole, same) == []
    assert differing_videos(whole, evaluation(tmp_path / "cut", (5, 3))) == ["videos/1.mp4: 7 and 3 frames"]
    (same / "videos/1.mp4").unlink()
    assert "videos/1.mp4" in differing_videos(whole, same)[0]


def test_incidents_are_those_of_the_killed_simulators(tmp_path):
    test = torture_eval.Torture(tmp_path, "", [], 3, 1, None, np.random.default_rng(0))
    folder = write(tmp_path / "killed/results.jsonl", [record(incidents=1), record(init_state=1)])
    attempt = torture_eval.Attempt.__new__(torture_eval.Attempt)
    attempt.results, attempt.had, attempt.log = (
        torture_eval.ResultsFile(folder / "results.jsonl"),
        0,
        tmp_path / "a.log",
    )
    for killed, due, problems in ((1, 1, 0), (2, 0, 0), (0, 0, 1), (2, 2, 1)):
        attempt.simulators_killed, test.problems = killed, []
        test.check_incidents(attempt, due)
        assert len(test.problems) == problems, (killed, due)


def test_bad_arguments_are_refused(tmp_path, capsys):
    (tmp_path / "precious").write_text("")
    for arguments, message in (
        (["--kills", "0"], "--kills"),
        (["--out", str(tmp_path)], "is not empty"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert message in capsys.readouterr().err
