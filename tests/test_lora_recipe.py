"""configs/vla0_lora.yaml end to end on a tiny model: train on two ranks, resume, load, answer, play, merge."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from rv_eval.agent import AgentSettings
from rv_eval.policy import Policy
from rv_train.backbones.lora import weights_sha256
from rv_train.checkpoint import load_trainer, read_model_cfg
from rv_train.difference import compare_runs
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.rv_train.test_manifest_run import roll_out
from tests.tiny import ROOT, make_tiny_base, tiny_opts
from tools.merge_lora import main as merge

pytestmark = pytest.mark.slow

QUANTIZED = "__bnb_optimizer_quant_state__"  # bitsandbytes' name for its states
RECIPE = ROOT / "configs/vla0_lora.yaml"
# Rank 64: matrices of 4,096 numbers, which is where bitsandbytes' 8-bit states begin.
OPTS = {
    "MODEL__VOCAB_CUT": 0,
    "MODEL__LORA__RANK": 64,
    "DATA__NUM_WORKERS": 1,
    "DATA__VAL_SHARE": 0.25,
    "TRAIN__batch_size": 2,
    "TRAIN__grad_accum": 2,
    "TRAIN__ema": 0.9,
    "TRAIN__max_steps": 6,
    "TRAIN__save_every": 2,
    "TRAIN__save_every_epochs": 1,
    "TRAIN__keep_last": 1,
    "TRAIN__log_every": 1,
    "VALID__loss_batches": 2,
    "VALID__gen_samples": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    make_tiny_base(folder)
    write_synthetic_demo_file(folder / "demo.hdf5", num_demos=4, num_frames=12, resolution=64, seed=0)
    return folder


def options(folder, **more):
    base = str(folder / "base_0")
    paths = {"EXP__DIR": folder, "DATA__FILES": [str(folder / "demo.hdf5")], "MODEL__PATH": base}
    return [str(part) for part in tiny_opts(**{**OPTS, **paths, "MODEL__TOKENIZER": base, **more})]


@pytest.fixture(scope="module")
def run(folder):
    command = [sys.executable, "-m", "rv_train.train", "--cfg", str(RECIPE), "--nproc", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    pipes = {"capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run([*command, *options(folder, EXP__ID="whole")], cwd=ROOT, env=environment, **pipes)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr  # bitsandbytes and peft have remarks
    assert "65,536 trained" in done.stdout
    return folder / "whole"


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(folder, run, forked_ranks):
    """Adapter, 8-bit states, average, generators (of the dropout, too) and curves; recomputed layers, two passes."""
    shutil.copytree(run, folder / "cut", symlinks=True)
    shutil.rmtree(folder / "cut/step_00000006")  # as if killed at step 6
    with pytest.raises(SystemExit) as stopped:
        main(["--cfg", str(RECIPE), "--nproc", "2", "--resume", *options(folder, EXP__ID="cut")])
    assert stopped.value.code == 0
    assert compare_runs(run, folder / "cut") == []
    assert {state["state1"].dtype for state in states_of(run)} == {torch.float32, torch.uint8}


def states_of(run):
    return [state[QUANTIZED] for state in load_trainer(run / "last")["optimizer"]["state"].values()]


def test_checkpoints_hold_the_adapter_and_its_state_only(run, folder):
    names = sorted(path.name for path in run.iterdir() if not path.name.startswith("events"))
    links = ["best", "epoch_1", "final", "last"]
    steps = ["step_00000005", "step_00000006"]  # of the epoch link, and the last: keep_last is 1
    assert names == sorted([*links, *steps, "config.json", "config.yaml", "lock", "run.json"])
    assert (run / "epoch_1").resolve().name == "step_00000005" and (run / "final").resolve().name == "step_00000006"
    tree = json.loads((run / "config.json").read_text())
    assert tree["MODEL"]["LORA"]["RANK"] == 64 and tree["TRAIN"]["optimizer"] == "adamw_8bit"
    assert json.loads((run / "run.json").read_text())["parameters"]["trainable"] == 65_536

    model = run / "last/model"
    sizes = {path.name: path.stat().st_size for path in model.iterdir()}
    assert 4 * 65_536 < sizes["adapter_model.safetensors"] < 4 * 65_536 + 5000 and "model.safetensors" not in sizes
    trainer = load_trainer(run / "last")
    assert sum(weight.numel() for weight in trainer["ema"]["average"]) == 65_536
    assert sum(state["state1"].numel() for state in states_of(run)) == 65_536
    assert json.loads((model / "base.json").read_text())["weights_sha256"] == weights_sha256(folder / "base_0")


def test_it_plays_as_the_recipe_says_and_so_does_the_merged_model(run, tmp_path):
    policy = Policy.from_checkpoint(run, batch_rows=2)
    assert (policy.horizon, policy.action_dim, policy.views) == (10, 7, ("agentview", "eye_in_hand"))
    assert {p.dtype for p in policy.model.parameters()} == {torch.bfloat16, torch.float32}
    assert policy.preset == AgentSettings(1, ensemble_size=10, ensemble_version=1, ensemble_weight=1.0)
    records = roll_out(policy, policy.preset, tmp_path / "of_adapter")
    assert [record["queries"] for record in records] == [3, 6]  # one for every action
    assert records[0]["weights_sha256"] == weights_sha256(run / "last/model")

    merge([str(run), "--out", str(tmp_path / "merged")])
    merged = Policy.from_checkpoint(tmp_path / "merged", batch_rows=2)
    assert merged.preset == policy.preset
    roll_out(merged, merged.preset, tmp_path / "of_merged")


def test_the_base_is_part_of_what_is_evaluated(run, tmp_path):
    """The fingerprint in every result record covers base.json, and so the SHA-256 of the frozen weights."""
    copy = shutil.copytree(run / "last/model", tmp_path / "model")
    policy = Policy.from_checkpoint(copy)
    before = policy.describe()
    note = json.loads((copy / "base.json").read_text())
    (copy / "base.json").write_text(json.dumps({**note, "weights_sha256": "0" * 64}))
    other = Policy(policy.model, policy.encoder, read_model_cfg(copy), {}, copy).describe()
    assert other["model_fingerprint"] != before["model_fingerprint"]
    assert other["weights_sha256"] == before["weights_sha256"]
    with pytest.raises(ValueError, match="was trained over weights of sha256 0000000000000000…"):
        Policy.from_checkpoint(copy)


def test_what_cannot_be_resumed_or_started_costs_one_line(folder, run, tmp_path, capsys):
    for flags, opts, message in (
        (("--resume",), {"MODEL__PATH": str(tmp_path)}, "step_00000006/model needs the weights it was trained over"),
        (("--resume", "--allow_changes"), {"MODEL__LORA__RANK": 8}, "MODEL.LORA.RANK is 8 now"),
        ((), {"EXP__ID": "fresh", "MODEL__PATH": str(run)}, "last/model holds no model, but what was trained over one"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["--cfg", str(RECIPE), "--nproc", "2", *flags, *options(folder, **{"EXP__ID": "whole", **opts})])
        errors = capsys.readouterr().err
        assert stopped.value.code == 2 and errors.count("\n") == 1 and message in errors, errors
    assert not (folder / "fresh").exists()
