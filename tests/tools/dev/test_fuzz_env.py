"""tools/dev/fuzz_env.py: what it finds is found, and our own end of an environment's wire withstands it."""

from rv_eval.envs import remote_messages
from tests.rv_eval.envs.elsewhere import COMMAND, box
from tools.dev.fuzz_env import attack_readers, fuzz_env


def test_answers_that_lie_are_refused(capsys):
    assert attack_readers(box().description, box().tasks[0], 0.5, seed=3) == []
    said = capsys.readouterr().out
    assert "BadInput" in said and "WorkerFailure" in said and "taken" in said


def test_a_reader_that_believes_is_found(monkeypatch):
    monkeypatch.setattr(remote_messages, "_facts", lambda facts: {"distance": facts["distance"] + 1})
    (problem,) = attack_readers(box().description, box().tasks[0], 20.0, seed=3)
    assert problem.startswith("an answer is not refused but fails: ")


def test_an_environment_withstands_a_volley(tmp_path):
    assert fuzz_env(COMMAND, "plain", tmp_path, 0.1, seed=1) == []
