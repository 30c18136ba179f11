"""The trainer end to end: two CPU ranks, a tiny model of the real class, demonstrations written by the tests."""

import json
import os
import shutil
import signal
import subprocess
import sys

import h5py
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rv_train.checkpoint import checkpoints, find_damage, load_model_folder, load_trainer
from rv_train.difference import compare_runs, differing
from rv_train.prepare import prepare_run
from rv_train.tracking import Tracker
from rv_train.train import STOPPED, main
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, tiny_cfg, tiny_opts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "synthetic_demo.hdf5"
    write_synthetic_demo_file(path, num_demos=2, num_frames=12, resolution=64, seed=0)
    return path


def arguments(folder, demos, *flags, **opts):
    opts = tiny_opts(**{"EXP__DIR": str(folder), "DATA__FILES": [str(demos)], **opts})
    return ["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, opts)]


def run_training(folder, demos, *flags, **opts):
    """`main` in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments(folder, demos, *flags, **opts))
    assert stopped.value.code == 0


def run_program(launcher, *args, expect=0):
    """`python -m LAUNCHER ARGS` as a user calls it; returns the finished process."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command, pipes = [sys.executable, "-m", launcher, *args], dict(capture_output=True, text=True, timeout=300)
    done = subprocess.run(command, cwd=ROOT, env=environment, **pipes)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def scalars(run, tag):
    events = EventAccumulator(str(run))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


RESUMED = {
    "TRAIN__save_every": 2,
    "DATA__NUM_WORKERS": 1,
    "TRAIN__grad_accum": 2,
    "TRAIN__schedule": "none",
    "TRAIN__ema": 0.9,
    "DATA__VAL_SHARE": 0.5,
    "VALID__loss_every": 1.0,
    "VALID__gen_samples": 3,
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, demos, forked_ranks):
    """Two ranks, 6 steps in one go: `whole`. And `cut`, the same run as if it had lost all checkpoints but two, the
    newer of them damaged: torchrun resumes it, and what it says is in `said.txt`. Its curves reach further than that.
    """
    folder = tmp_path_factory.mktemp("runs")
    run_training(folder, demos, "--nproc", "2", EXP__ID="whole", TRAIN__max_steps=6, **RESUMED)
    shutil.copytree(folder / "whole", folder / "cut", symlinks=True)
    shutil.rmtree(folder / "cut/step_00000006")
    os.truncate(folder / "cut/step_00000004/model/model.safetensors", 1000)
    opts = dict(RESUMED, EXP__ID="cut", TRAIN__max_steps=6)
    torchrun = ["--nproc_per_node=2", "--standalone", "-m", "rv_train.train"]
    done = run_program("torch.distributed.run", *torchrun, *arguments(folder, demos, "--resume", **opts))
    (folder / "said.txt").write_text(done.stderr)
    return folder


def test_resumed_weights_equal_the_uninterrupted_runs_bit_for_bit(resumed):
    whole, cut = (load_model_folder(resumed / name)[0].state_dict() for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_tensorboard_shows_one_unbroken_curve(resumed):
    for tag in ("train/loss", "train/lr", "train/grad_norm", "speed/samples_per_s", "speed/data_wait"):
        assert [step for step, _ in scalars(resumed / "cut", tag)] == [1, 2, 3, 4, 5, 6]
    assert scalars(resumed / "cut", "train/loss") == scalars(resumed / "whole", "train/loss")


def test_a_damaged_checkpoint_is_passed_over(resumed):
    said = (resumed / "said.txt").read_text()
    assert "step_00000004 is damaged: model/model.safetensors is not what was written; using the one before" in said


def test_the_whole_state_is_resumed(resumed):
    whole, cut = (load_trainer(resumed / name / "last") for name in ("whole", "cut"))
    assert list(differing(whole, cut, "trainer.pt")) == []
    assert whole["ema"]["count"] == 6 and whole["best"][1] in (3, 6)  # 3 steps are an epoch
    # model/ is the average, the weights themselves are in the trainer's state
    model = load_model_folder(resumed / "whole")[0]
    for parameter, average, weight in zip(
        model.parameters(), whole["ema"]["average"], whole["ema"]["weights"], strict=True
    ):
        assert torch.equal(parameter, average)
        assert not torch.equal(average, weight) or torch.equal(weight, torch.ones_like(weight))


def test_a_run_goes_on_by_its_folder_alone(tmp_path, resumed, forked_ranks, monkeypatch):
    """Wherever it stands now, with its own recipe and number of ranks, to the bits of a run that was never cut."""
    run = tmp_path / "moved"
    shutil.copytree(resumed / "whole", run, symlinks=True)
    shutil.rmtree(run / "step_00000006")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["--resume", "moved"])
    assert stopped.value.code == 0 and (run / "step_00000006").is_dir()
    assert compare_runs(resumed / "whole", run) == []
    assert json.loads((run / "run.json").read_text())["resumed"][-1]["world_size"] == 2


def test_resuming_a_changed_run_says_what_changed(tmp_path, demos, resumed, capsys):
    shutil.copytree(resumed / "whole", tmp_path / "whole", symlinks=True)
    opts = dict(RESUMED, EXP__ID="whole", TRAIN__max_steps=7, TRAIN__lr=0.002, AMP__mode="fp16")
    run_training(tmp_path, demos, "--nproc", "1", "--resume", "--allow_changes", **opts)
    said = capsys.readouterr().err
    assert "step_00000006 was written with world_size 2, this run has 1" in said
    assert "TRAIN.lr is 0.002 now, the run was started with 0.001" in said
    assert (tmp_path / "whole/last").resolve().name == "step_00000007"


def test_it_says_how_a_run_goes_on_that_was_interrupted_or_has_ended(tmp_path, demos, monkeypatch, capsys):
    def end(code, *flags):
        with pytest.raises(SystemExit) as stopped:
            main(arguments(tmp_path, demos, "--nproc", "1", *flags, TRAIN__max_steps=1))
        assert stopped.value.code == code
        said = capsys.readouterr()
        return (said.out + said.err).splitlines()[-1]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rv_train.train.launch", interrupt)
        assert end(130) == "interrupted; nothing was saved yet, the same command begins"
    run_training(tmp_path, demos, "--nproc", "1", TRAIN__max_steps=1)
    assert end(0, "--resume").startswith("nothing left to do after step 1 (TRAIN.max_steps")
    with monkeypatch.context() as patch:
        patch.setattr("rv_train.train.launch", interrupt)
        assert end(130, "--resume") == f"interrupted; --resume {tmp_path / 'tiny'} continues from step_00000001"


def check_stopped(folder, code, output):
    assert code == STOPPED == 75
    step = load_trainer(folder / "tiny/last")["step"]
    assert f"stopped by a signal at step {step}, --resume {folder / 'tiny'} continues" in output.splitlines()[-1]
    assert find_damage(folder / "tiny/last") is None


def test_a_signal_saves_and_ends_with_a_code_of_its_own(tmp_path, demos):
    """To every process of the group, loader processes included, as a cluster does it."""
    opts = {"TRAIN__max_steps": 100000, "DATA__NUM_WORKERS": 1}
    command = [sys.executable, "-m", "rv_train.train", *arguments(tmp_path, demos, "--nproc", "2", **opts)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not process.stdout.readline().startswith("step "):  # the first step is done
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert errors == ""
    check_stopped(tmp_path, process.returncode, output)


def test_a_signal_to_a_run_of_one_process(tmp_path, demos, monkeypatch, capsys):
    monkeypatch.setattr("rv_train.distributed._stop_requested", False)
    monkeypatch.setattr(Tracker, "advance", lambda tracker, step: os.kill(os.getpid(), signal.SIGUSR1))
    opts = {"TRAIN__max_steps": 100000, "DATA__NUM_WORKERS": 1}
    with pytest.raises(SystemExit) as stopped:
        main(arguments(tmp_path, demos, "--nproc", "1", **opts))
    said = capsys.readouterr()
    assert said.err == ""
    check_stopped(tmp_path, stopped.value.code, said.out)


def test_run_folder_holds_what_a_reproduction_needs(resumed):
    run = resumed / "whole"
    assert [p.name for p in checkpoints(run)] == ["step_00000003", "step_00000004", "step_00000006"]
    assert (run / "last").resolve().name == "step_00000006"
    note = json.loads((run / "run.json").read_text())
    assert note["world_size"] == 2 and note["global_batch_size"] == 8 and note["versions"]["torch"]
    assert (
        note["data"]["num_frames"] == 24
        and note["data"]["num_valid_demos"] == 1
        and len(note["data_fingerprint"]) == 64
    )
    assert yaml.safe_load((run / "config.yaml").read_text())["TRAIN"]["max_steps"] == 6


def test_the_model_folder_is_an_ordinary_one(resumed):
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    folder = resumed / "whole/last/model"
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    ours = load_model_folder(folder)[0].backbone
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("4 2<|im_end|>")["input_ids"] == [19, 220, 17, tokenizer.eos_token_id]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "go"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>go<|im_end|>\n<|im_start|>assistant\n"
    assert not [p.name for p in folder.iterdir() if p.suffix in (".py", ".pt", ".bin", ".pkl")]


def test_training_learns(tmp_path, demos):
    run_training(tmp_path, demos, "--nproc", "1", TRAIN__max_steps=40, TRAIN__lr=1e-2, TRAIN__batch_size=8)
    losses = [value for _, value in scalars(tmp_path / "tiny", "train/loss")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_wrong_input_costs_one_line_and_exit_code_2(tmp_path, demos, resumed, capsys):
    truncated = tmp_path / "truncated.hdf5"
    truncated.write_bytes(demos.read_bytes()[:3000])
    blind = tmp_path / "blind.hdf5"
    shutil.copy(demos, blind)
    with h5py.File(blind, "a") as file:
        del file["data/demo_0/obs/agentview_rgb"]
    other, lonely = tmp_path / "other.hdf5", tmp_path / "lonely.hdf5"
    write_synthetic_demo_file(other, num_demos=2, num_frames=12, resolution=64, seed=7)
    write_synthetic_demo_file(lonely, num_demos=1, num_frames=12, resolution=64, seed=0)
    fresh, whole = {"EXP__DIR": str(tmp_path / "runs")}, {"EXP__DIR": str(resumed), "EXP__ID": "whole"}
    for flags, opts, message in (
        ((), dict(fresh, DATA__FILES=["no/such.hdf5"]), "no/such.hdf5 does not exist"),
        ((), dict(fresh, DATA__FILES=[str(truncated)]), "truncated.hdf5"),
        ((), dict(fresh, DATA__FILES=[str(blind)]), "blind.hdf5, demo_0: no obs/agentview_rgb"),
        ((), dict(fresh, TRAIN__learning_rate=1), "unknown config key TRAIN.learning_rate"),
        ((), dict(fresh, TRAIN__lr="fast"), "TRAIN.lr must be float"),
        ((), dict(fresh, TRAIN__batch_size=100), "do not fill one batch of 100"),
        ((), dict(fresh, EXP__ID=".."), "EXP.ID names a folder"),
        ((), dict(fresh, MODEL__INIT="pretrained", MODEL__VOCAB_CUT=0, MODEL__PATH=str(tmp_path)), "holds no model"),
        (("--resume",), fresh, "no complete checkpoint to resume from"),
        (("--devices", "99"), fresh, "no GPU 99"),
        # A run that exists is neither overwritten nor resumed as another one.
        ((), whole, "already holds a run"),
        (("--nproc", "1", "--resume"), whole, "world_size 2, this run has 1"),
        (("--nproc", "2", "--resume"), dict(whole, EXP__SEED=1), "EXP.SEED is 1 now, the run was started with 0"),
        (("--nproc", "2", "--resume"), dict(whole, DATA__FILES=[str(other)]), "was written with data_fingerprint"),
        (("--nproc", "2", "--allow_changes"), whole, "give both"),
        (
            ("--nproc", "2", "--resume", "--allow_changes"),
            dict(whole, TRAIN__optimizer="adamw_8bit"),
            "TRAIN.optimizer is 'adamw_8bit' now, the run was started with 'adamw'; its checkpoints cannot continue so",
        ),
        ((), dict(fresh, MODEL__ATTENTION="flash_attention_2"), "needs flash-attn: pip install"),
        ((), dict(fresh, AMP__param_dtype="float16"), "AMP.param_dtype float16 cannot work: a gradient scaler refuses"),
        ((), dict(fresh, DATA__VAL_SHARE=0.5, DATA__FILES=[str(lonely)]), "no demo can be held out"),
    ):
        if "--resume" in flags or opts is whole:
            opts = {**RESUMED, **opts}
        opts = tiny_opts(**{"DATA__FILES": [str(demos)], **opts})
        with pytest.raises(SystemExit) as stopped:
            main(["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, opts)])
        lines = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2 and len(lines) == 1, lines
        assert lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "runs").exists()
    done = run_program("rv_train.train", *arguments(tmp_path / "runs", "no/such.hdf5"), expect=2)  # and as a program
    assert done.stderr == "error: DATA.FILES: no/such.hdf5 does not exist\n"


def test_compiling_without_a_compiler_is_refused_before_anything_starts(tmp_path, demos, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    cfg = tiny_cfg(EXP__DIR=str(tmp_path / "runs"), DATA__FILES=[str(demos)], TRAIN__compile=True)
    with pytest.raises(ValueError, match="finds no no-such-compiler"):
        prepare_run(cfg, torch.device("cpu"), world_size=1)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, demos):
    """A shipped policy, say: a folder of the same name without a checkpoint of the trainer's."""
    precious = tmp_path / "tiny/model/weights"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    cfg = tiny_cfg(EXP__DIR=str(tmp_path), DATA__FILES=[str(demos)])
    with pytest.raises(ValueError, match="holds model but no complete checkpoint"):
        prepare_run(cfg, torch.device("cpu"), world_size=1)
    assert precious.read_text() == "precious"
    shutil.rmtree(precious.parent)
    for name in ("config.yaml", "config.part.yaml", "config.json", "run.part.json"):
        (tmp_path / "tiny" / name).write_text("what a run killed early leaves")
    assert prepare_run(cfg, torch.device("cpu"), world_size=1).resume is None


def test_loading_a_checkpoint_runs_no_code(tmp_path, resumed):
    """A pickle that would leave a mark is put wherever a loader might look; nothing runs it."""
    import pickle

    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    step = tmp_path / "step_00000006"
    shutil.copytree(resumed / "whole/step_00000006", step)
    for name in ("model/pytorch_model.bin", "model/modeling_evil.py"):
        (step / name).write_bytes(pickle.dumps(Bomb(), protocol=2))
    torch.save(Bomb(), step / "trainer.pt")
    config = json.loads((step / "model/config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil"}
    (step / "model/config.json").write_text(json.dumps(config))
    tokenizer = json.loads((step / "model/tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["modeling_evil.Evil", None]}
    (step / "model/tokenizer_config.json").write_text(json.dumps(tokenizer))
    (step / "model/modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')")
    load_model_folder(step)
    with pytest.raises(Exception, match=r"[Ww]eights.only|Unsupported"):
        load_trainer(step)
    assert not mark.exists()
