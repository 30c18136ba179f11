"""A manifest end to end: train, save, resume, load, predict, roll out; and --sanity_forward on every kind of data."""

import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from libs.demo_hdf5 import DemoFile
from rv_eval.agent import AgentSettings
from rv_eval.playing.evaluate import EvalOptions, describe_run, evaluate, plan_episodes
from rv_eval.policy import Policy
from rv_train import train
from rv_train.checkpoint import load_model_folder
from tests.demo_files import write_synthetic_demo_file
from tests.manifests import build, edit_lines, write_foreign
from tests.rv_eval.fakes import FakeEnv, FakeSimulator
from tests.rv_eval.playing.test_evaluate import Task
from tests.tiny import ROOT, lora_opts, make_tiny_base, tiny_opts

TRAINED = {
    "DATA__VAL_SHARE": 0.5,
    "TRAIN__save_every": 2,
    "TRAIN__max_steps": 4,
    "VALID__loss_every": 0.5,
    "VALID__gen_samples": 2,
}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "a_demo.hdf5"
    write_synthetic_demo_file(path, num_demos=2, num_frames=8, resolution=64, seed=0)
    return path


@pytest.fixture(scope="module")
def built(demos):
    return build(demos.parent / "manifest", demos)


def run(*flags, expect=0, **opts):
    """The command line, in this process and on one CPU rank; a later --cfg takes the place of the tiny one."""
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *flags]
    with pytest.raises(SystemExit) as end:
        train.main([*command, *map(str, tiny_opts(**opts))])
    assert end.value.code == expect


@pytest.fixture(scope="module")
def runs(built, demos, tmp_path_factory):
    """From the manifest, from the demonstration files, and from the manifest with a break."""
    folder = tmp_path_factory.mktemp("runs")
    mine = {"EXP__DIR": folder, "DATA__SOURCE": "manifest", "DATA__FILES": [str(built)], **TRAINED}
    run(EXP__ID="whole", **mine)
    run(EXP__ID="hdf5", **{**mine, "DATA__SOURCE": "hdf5", "DATA__FILES": [str(demos)]})
    run(EXP__ID="cut", **mine)
    shutil.rmtree(folder / "cut/step_00000004")  # as if killed after step 3
    run("--resume", EXP__ID="cut", **mine)
    return folder


def weights(run):
    return load_model_folder(run)[0].state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("other", ["hdf5", "cut"])
def test_weights_are_those_of_the_demonstration_files_and_of_a_resumed_run(runs, other):
    whole, others = weights(runs / "whole"), weights(runs / other)
    assert whole.keys() == others.keys()
    for name, value in whole.items():
        assert torch.equal(value, others[name]), name
    curves = []
    for name in ("whole", other):
        events = EventAccumulator(str(runs / name))
        events.Reload()
        curves.append([point.value for tag in ("train/loss", "val/loss") for point in events.Scalars(tag)])
        assert events.Scalars("memory/peak_gib_rank0")[-1].value > 0
    assert curves[0] == curves[1] and len(curves[0]) == 4 + 2


@pytest.mark.slow
def test_a_resumed_run_notices_another_manifest(runs, built, tmp_path, capsys):
    other = shutil.copytree(built, tmp_path / "other")
    shutil.copytree(runs / "whole", tmp_path / "whole", symlinks=True)
    opts = {
        "EXP__DIR": tmp_path,
        "EXP__ID": "whole",
        "DATA__SOURCE": "manifest",
        "DATA__FILES": [str(other)],
        **TRAINED,
    }
    run("--resume", **opts)  # moved, but the same: there is nothing left to do
    edit_lines(other, lambda lines: lines.pop())
    capsys.readouterr()
    run("--resume", expect=2, **opts)
    assert "was written with data_fingerprint" in capsys.readouterr().err


class PatientEnv(FakeEnv):
    """Takes any action: FakeEnv wants to be told the number of the step."""

    def begin(self, episode, views):
        self.step = 0
        super().begin(episode, views)

    def act(self, action, views):
        assert action.shape == (7,) and np.isfinite(action).all()
        super().act([self.step, *action[1:]], views)
        self.step += 1


def roll_out(policy, settings, log_dir):
    """Two episodes: one whose goal is in reach, and one whose is too far."""
    policy.check_environment(policy.views, 7, "fast", {"robot_states": 9})
    episodes = plan_episodes([Task(max_steps=6)], 8, seed=7)[3::4]
    provenance = describe_run(policy, log_dir, FakeSimulator(), {"render": "fast"})
    options = EvalOptions(log_dir, settings, num_envs=2, save_video="none")
    records = evaluate(policy, PatientEnv, episodes, options, provenance, lambda line: None)
    assert [(record["success"], record["steps"]) for record in records] == [(True, 3), (False, 6)]
    assert records[0]["render"] == "fast" and (log_dir / "results.jsonl").is_file()
    return records


@pytest.mark.slow
def test_the_checkpoint_is_a_policy_and_rolls_out(runs, demos, tmp_path):
    policy = Policy.from_checkpoint(runs / "whole")
    assert (policy.render, policy.resolution, policy.horizon) == ("fast", 64, 2)
    file = DemoFile(demos)
    views = {view: file.frame("demo_0", 3, view) for view in policy.views}
    prediction = policy.predict_detailed([{"views": views, "instruction": file.instruction}])
    assert prediction.chunk.shape == (1, 2, 7) and np.isfinite(prediction.chunk).all()
    roll_out(policy, AgentSettings(), tmp_path)


def sane(capsys, cfg="tiny", expect=0, **opts):
    """What --sanity_forward prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        arguments = ["--cfg", str(ROOT / f"configs/{cfg}.yaml"), "--nproc", "1", "--sanity_forward"]
        train.main([*arguments, *map(str, tiny_opts(**opts))])
    captured = capsys.readouterr()
    assert end.value.code == expect, captured.err
    return captured.out if expect < 2 else captured.err


@pytest.mark.slow
@pytest.mark.parametrize("source", ["hdf5", "manifest"])
def test_the_sanity_forward_is_the_first_step_of_the_run(runs, built, demos, tmp_path, monkeypatch, capsys, source):
    monkeypatch.chdir(tmp_path)
    files = [str(built if source == "manifest" else demos)]
    out = sane(capsys, DATA__SOURCE=source, DATA__FILES=files, DATA__VAL_SHARE=0.5)
    assert not list(tmp_path.iterdir())
    for line in ("  images        2 x 1 x 56 x 112 x 3    uint8", "  lengths       2                       int64"):
        assert line in out.splitlines()
    where = "manifest.jsonl, line " if source == "manifest" else "a_demo.hdf5, demo_"
    assert f"/{where}" in out and "trained on 8 frames, held out: 1 demo" in out
    assert "<|vision_start|><|image_pad|> x 8 <|vision_end|>pick up the stripe<|im_end|>" in out
    text = out[out.index("action text: ") :].splitlines()
    tokens, learned = (int(word) for word in text[0].split() if word.isdigit())
    hidden = text[1].count("?")
    assert text[1].strip().endswith("<|im_end|>") and tokens - learned == hidden
    assert len(text[1].strip()) - len("<|im_end|>") + 2 == tokens
    (loss,) = (float(line.split()[1]) for line in out.splitlines() if line.startswith("loss "))

    events = EventAccumulator(str(runs / ("whole" if source == "manifest" else "hdf5")))
    events.Reload()
    assert events.Scalars("train/loss")[0].value == pytest.approx(loss, abs=1e-4)


def test_the_sanity_forward_of_an_adapted_model(built, tmp_path, capsys):
    """LoRA, and a mask that is learned: nothing in the answer is left out."""
    opts = lora_opts(make_tiny_base(tmp_path), ACTION__MASK_STYLE="learned", ACTION__MASK_CHAR="_", ACTION__MASK_NONE=0)
    out = sane(capsys, DATA__SOURCE="manifest", DATA__FILES=[str(built)], **opts)
    tokens, learned = (
        int(word) for word in out[out.index("action text: ") :].splitlines()[0].split() if word.isdigit()
    )
    assert tokens == learned and "_" in out.split("action text: ")[1] and "\nloss " in out


def test_the_sanity_forward_of_somebody_elses_lines(tmp_path, capsys):
    numbers = itertools.count()
    folder = write_foreign(
        tmp_path / "theirs", [("go", 4)], text=lambda _: f"X 5X {next(numbers)} 0 0 100 7 " + " ".join("?" * 7)
    )
    opts = {"DATA__SOURCE": "manifest", "DATA__FILES": [str(folder)], "DATA__VIEWS": ["camera"]}
    out = sane(capsys, **opts, ACTION__MASK_NONE=1.0)
    assert "4 samples hide digits (X), where nothing is learned" in out
    assert "7 ? ? ? ? ? ? ?<|im_end|>" in out and "\n  ? 5? " in out
    edit_lines(folder, lambda lines: lines.append("{"))
    assert "error: 1 bad lines of 5: " in sane(capsys, expect=2, **opts)


def test_the_sanity_forward_of_a_loss_that_is_no_number(built, capsys, monkeypatch):
    from rv_train.policies.text.model import TextPolicy

    forward = TextPolicy.forward
    monkeypatch.setattr(
        TextPolicy, "forward", lambda self, batch: {**forward(self, batch), "loss": torch.tensor(math.nan)}
    )
    out = sane(capsys, expect=1, DATA__SOURCE="manifest", DATA__FILES=[str(built)])
    assert "loss nan over" in out and out.endswith("the loss is not a finite number\n")


def test_the_plan_of_a_run_from_a_manifest(built, capsys):
    for files, lines in (
        (
            [str(built)],
            ["16 frames of 2 demos in 1 file, 64 x 64, rendering fast", "/manifest.jsonl, line ", "nothing"],
        ),
        (
            [],
            ["missing:", "data: DATA.FILES is empty; give manifests or their folders (tools/build_manifest.py writes"],
        ),
    ):
        opts = tiny_opts(DATA__SOURCE="manifest", DATA__FILES=files)
        train.main(["--cfg", str(ROOT / "configs/tiny.yaml"), "--dry_run", *map(str, opts)])
        out = capsys.readouterr().out
        assert all(line in out for line in lines), out


def test_skip_bad_on_the_command_line(built, tmp_path, capsys):
    mine = shutil.copytree(built, tmp_path / "mine")
    edit_lines(mine, lambda lines: lines.__setitem__(2, "{}"))
    opts = {"EXP__DIR": tmp_path, "DATA__SOURCE": "manifest", "DATA__FILES": [str(mine)], "TRAIN__max_steps": 1}
    run(expect=2, **opts)
    assert "error: 1 bad lines of 16: " in capsys.readouterr().err and not (tmp_path / "tiny").exists()
    run("--skip_bad", **opts)
    captured = capsys.readouterr()
    assert "warning: 1 bad lines of 16 are left out: " in captured.err and "line 3: no H" in captured.err
    assert "1 bad lines of the manifest are left out" in captured.out


@pytest.mark.slow
def test_the_shipped_recipe_trains_at_the_size_of_a_test(tmp_path, demos, capsys):
    """configs/vla0_manifest.yaml as it is, but for the model's size and where its data lies."""
    folder = build(tmp_path / "manifest", demos, horizon=8, num_bins=1000)
    small = {
        "MODEL__INIT": "random",
        "MODEL__VOCAB_CUT": 512,
        "MODEL__TEXT__HIDDEN": 32,
        "MODEL__TEXT__LAYERS": 2,
        "MODEL__TEXT__HEADS": 2,
        "MODEL__TEXT__KV_HEADS": 1,
        "MODEL__TEXT__MLP": 64,
        "MODEL__VISION__HIDDEN": 32,
        "MODEL__VISION__LAYERS": 2,
        "MODEL__VISION__HEADS": 2,
        "MODEL__VISION__MLP": 64,
        "MODEL__VISION__FULL_ATTENTION": [0, 1],
        "IMAGE__SIZE": 56,
        "DATA__FILES": [str(folder)],
        "DATA__NUM_WORKERS": 1,
        "EXP__DIR": tmp_path,
    }
    assert "over " in sane(capsys, "vla0_manifest", **small)
    small |= {"TRAIN__grad_accum": 2, "AMP__mode": "off"}
    run("--cfg", str(ROOT / "configs/vla0_manifest.yaml"), **small, TRAIN__max_steps=1)
    run("--cfg", str(ROOT / "configs/vla0_manifest.yaml"), "--resume", **small, TRAIN__max_steps=2)
    out = capsys.readouterr().out
    assert "averages 8 overlapping chunks" in out and "lr 5.00e-06" in out and " GiB  " in out
    assert (tmp_path / "vla0_manifest/last").resolve().name == "step_00000002"
    policy = Policy.from_checkpoint(tmp_path / "vla0_manifest")
    preset = load_model_folder(tmp_path / "vla0_manifest")[1].EVAL
    settings = AgentSettings(
        preset.ACTION_HORIZON, preset.ENSEMBLE_PREDICTION, preset.ENSEMBLE_VERSION, preset.ENSEMBLE_WEIGHT
    )
    records = roll_out(policy, settings, tmp_path / "eval")
    assert [record["queries"] for record in records] == [3, 6]  # one per action
