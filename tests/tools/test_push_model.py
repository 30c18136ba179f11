"""`tools/export_model.py --push`: round trips through a hub on the loopback, and what is refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from rv_eval.policy import Policy, model_fingerprint
from tests.cards import code_of, run_card
from tests.fake_hub import TOKEN, fake_hub
from tests.refusal import refusal
from tests.rv_eval.records import record, write
from tests.tiny import ROOT, flow_opts, make_tiny_checkpoint
from tools.export_model import main

pytestmark = pytest.mark.slow
NAME = "somebody/vla0-tiny"


@pytest.fixture(scope="module", params=["text", "flow"])
def kind(request, tmp_path_factory):
    """(kind, run folder, its policy)."""
    more = flow_opts(DATA__PROPRIO=[]) if request.param == "flow" else {}
    run = make_tiny_checkpoint(tmp_path_factory.mktemp("run"), **more)
    return request.param, run, Policy.from_checkpoint(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def hub(tmp_path):
    with fake_hub(tmp_path / "cache", TOKEN) as hub:
        yield hub


def arguments(run, tmp_path, *more):
    return ["--model_path", str(run), "--dtype", "float32", "--out", str(tmp_path / "out"), "--push", NAME, *more]


def observations(policy, number=3):
    pictures = np.random.default_rng(5).integers(0, 255, (number, len(policy.views), 64, 64, 3), dtype=np.uint8)
    state = {part: np.full(size, 0.25) for part, size in policy.proprio.items()}
    return [
        {
            "views": dict(zip(policy.views, views, strict=True)),
            "instruction": "push",
            "proprio": state,
            "random_key": [n],
        }
        for n, views in enumerate(pictures)
    ]


def test_what_is_pushed_answers_alike(kind, hub, tmp_path, capsys):
    name, run, policy = kind
    main(arguments(run, tmp_path))
    files = hub.repositories[NAME].files
    out = capsys.readouterr().out
    assert f"as {NAME} (public): {hub.url}/{NAME}/commit/{hub.repositories[NAME].newest}" in out
    assert set(files) == {path.name for path in (tmp_path / "out/model").iterdir()} | {".gitattributes"}
    assert hub.objects  # large files went by themselves
    fetched = Policy.from_checkpoint(NAME)
    assert fetched.folder != tmp_path / "out/model" and fetched.folder.is_relative_to(tmp_path / "cache")
    assert model_fingerprint(fetched.folder) == model_fingerprint(tmp_path / "out/model")
    asked = observations(policy)
    ours, theirs = policy.predict_detailed(asked), fetched.predict_detailed(asked)
    np.testing.assert_array_equal(theirs.chunk, ours.chunk)
    if name == "text":
        assert theirs.texts == ours.texts and theirs.numbers == ours.numbers


def test_the_lines_of_the_card_load_it_from_the_hub(kind, hub, tmp_path):
    name, run, policy = kind
    main(arguments(run, tmp_path))
    card = hub.repositories[NAME].files["README.md"].decode()
    names = {}
    exec(code_of(card, -1), names)
    assert names["actions"].shape == (policy.horizon, policy.action_dim)
    assert "MODEL.NAME" in card and "`tiny`" in card and "No evaluation was given" in card
    if name == "text":
        frames = observations(policy)[0]["views"]
        alone = run_card(card, None)  # by transformers, which opens the name, too
        assert alone["inputs"](frames, "push")["pixel_values"].numel()
        ours = dict(policy.model.backbone.named_parameters())
        assert all(torch.equal(value, ours[name]) for name, value in alone["model"].named_parameters())


def test_the_card_says_what_was_measured_with_which_weights(run, hub, tmp_path, capsys):
    fingerprint = model_fingerprint(run / "last/model")["model_fingerprint"]
    lines = [record(0, init, success=init > 0, model_fingerprint=fingerprint) for init in range(10)]
    write(tmp_path / "logs/results.jsonl", lines)
    main(arguments(run, tmp_path, "--results", str(tmp_path / "logs")))
    card = hub.repositories[NAME].files["README.md"].decode()
    assert "| libero_goal | 9/10 | 90.0 % | 59.6-98.2 % |" in card
    assert "measured with these weights" in card and "| n_action_steps | 8 |" in card
    assert "no planned.jsonl beside the results" in card
    half = [part.replace("float32", "float16") for part in arguments(run, tmp_path / "half")]
    main([*half, "--results", str(tmp_path / "logs")])
    assert "before the weights were stored as float16" in hub.repositories[NAME].files["README.md"].decode()
    write(tmp_path / "other/results.jsonl", [record()])
    hub.asked.clear()
    message = refusal(main, capsys, *arguments(run, tmp_path / "no", "--results", tmp_path / "other"))
    assert "are of a model with fingerprint 1cd81cd81cd8" in message and not hub.asked


def test_another_push_replaces_what_was_there(run, hub, tmp_path):
    main(arguments(run, tmp_path, "--private"))
    repository = hub.repositories[NAME]
    assert repository.private
    hub.put(NAME, None, repository.files | {"model-00001-of-00002.safetensors": b"old"})
    main(arguments(run, tmp_path / "again"))
    assert repository.private and len(repository.commits) == 4
    assert "model-00001-of-00002.safetensors" not in repository.files and "model.safetensors" in repository.files


def test_what_cannot_be_pushed_is_refused_before_it_is_exported(run, hub, tmp_path, capsys, monkeypatch):
    def refused(name=NAME, *more):
        changed = [name if part == NAME else part for part in arguments(run, tmp_path, *more)]
        message = refusal(main, capsys, *changed)
        assert not (tmp_path / "out").exists()
        return message

    hub.put("somebody/other", None, {"weights.bin": b""})
    assert "holds no policy of this project but weights.bin" in refused("somebody/other")
    hub.put("somebody/public", None, {"vla_config.yaml": b""})
    assert "and public" in refused("somebody/public", "--private")
    assert "a name on the hub is OWNER/NAME" in refused("mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "this needs another login" in refused()
    monkeypatch.delenv("HF_TOKEN")
    assert "this needs a login (`hf auth login`" in refused()
    hub.failing["."] = 503
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "the hub cannot be reached" in refused()
    assert "give both" in refusal(main, capsys, "--model_path", run, "--out", tmp_path / "out", "--private")


@pytest.mark.parametrize("step", ["create", "preupload", "batch", "PUT", "commit"])
def test_what_breaks_off_leaves_the_hub_as_it_was(step, run, hub, tmp_path, capsys):
    before = hub.put(NAME, run / "last/model").files if step != "create" else None
    hub.failing[step] = 403
    message = refusal(main, capsys, *arguments(run, tmp_path))
    again = f"`hf upload {NAME} {tmp_path}/out/model .` pushes it, too"
    assert "nothing was pushed" in message and message.endswith(again)
    assert (tmp_path / "out/model/README.md").is_file()
    if step == "create":
        assert NAME not in hub.repositories
    else:
        assert hub.repositories[NAME].files == before


def test_of_somebody_else(run, hub, tmp_path, capsys):
    others = [part.replace("somebody", "another") for part in arguments(run, tmp_path)]
    assert "nothing was pushed" in refusal(main, capsys, *others)


def test_commands_in_processes_of_their_own(run, hub, tmp_path):
    """As a person does it: nothing of this process, only the environment, says where the hub is."""
    environment = {**os.environ, **hub.environment(tmp_path / "cache_of_another")}
    for program in [
        ["tools/export_model.py", *arguments(run, tmp_path)],
        ["tools/export_model.py", "--model_path", NAME, "--out", str(tmp_path / "back"), "--dtype", "float32"],
    ]:
        done = subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert model_fingerprint(tmp_path / "back/model") == model_fingerprint(tmp_path / "out/model")
