"""The dry run: what it says, and that it needs nothing. Both published recipes are one training."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from rv_train.backbones import family_of
from rv_train.backbones.loading import build_backbone, check_weights
from rv_train.config import load_cfg
from rv_train.data.load import load_data
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.describe import describe, model_lines
from rv_train.distributed import Rank
from rv_train.optim import base_lr, lr_at
from rv_train.plan import count_steps, dry_run
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, flow_opts, make_tiny_base, make_tiny_checkpoint, tiny_cfg, tiny_model

EIGHT = list(range(8))
PUBLISHED_FRAMES = 273_465


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "synthetic_demo.hdf5"
    write_synthetic_demo_file(path, num_demos=4, num_frames=12, resolution=64, seed=0)
    return path


def recipe(name, *opts):
    return load_cfg(ROOT / "configs" / name, opts)


def printed(capsys, cfg, devices=None, nproc=None):
    dry_run(cfg, devices, nproc)
    return capsys.readouterr().out


def test_the_published_recipe_without_weights_data_or_gpus(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    out = printed(capsys, recipe("vla0.yaml"), EIGHT)
    plan, missing = out.split("missing:\n")
    assert "3,754,622,976 parameters, all trained" in plan
    assert "64 samples per step = 8 per rank x 8 ranks" in plan and "4.00e-05 = 5e-06 x 8 ranks" in plan
    assert "Picture 1: <|vision_start|><|image_pad|> x 128 <|vision_end|>put the white mug" in plan
    assert re.search(r"weights +13\.99 GiB", plan) and re.search(r"\(adamw\) +27\.97 GiB", plan)
    assert "memory per GPU, an estimate: fits cards of 80, 141 GB" in plan
    for line in ("GPUs: 8 asked for, this machine has 0", "weights: MODEL.PATH Qwen/", "data: DATA.FILES is empty"):
        assert line in missing
    assert not list(tmp_path.iterdir())

    out = printed(capsys, recipe("vla0.yaml"))  # as it would run here
    assert "1 CPU rank" in out and "with --devices 0 1 2 3 4 5 6 7: 64 samples per step, lr 4.00e-05" in out
    assert "GPUs:" not in out.split("missing:\n")[1]


@pytest.mark.slow
def test_the_lora_recipe_is_for_a_card_of_24_gb(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    whole = printed(capsys, recipe("vla0_lora.yaml"), [0])
    assert "3,814,490,112 parameters, 59,867,136 trained" in whole
    assert re.search(r"text +59,867,136 trained, +3,085,938,688 frozen", whole)
    assert re.search(r"vision +0 trained, +668,684,288 frozen", whole)
    assert "LoRA of rank 32, alpha 64, dropout 0.05, on the text tower's" in whole
    assert "64 samples per step = 4 per rank x 16 passes x 1 rank" in whole
    assert re.search(r"frozen weights \(bfloat16\) +6\.99 GiB\n +adapter +0\.22 GiB\n +gradients +0\.22 GiB", whole)
    assert re.search(r"optimizer states \(adamw_8bit\) +0\.11 GiB", whole)
    assert "fits cards of 24, 40, 48, 80, 141 GB" in whole and "344 MiB each" in whole and "of every 5 epochs" in whole
    assert "Predict robot actions for the next 10 timesteps (7 dimensions each).\n  Output 70 space-separated" in whole
    assert "Picture 2: <|vision_start|><|image_pad|> x 16" in whole
    assert "bf16 autocast, float32 adapter, bfloat16 frozen weights" in whole
    assert "executes 1 of 10 predicted actions" in whole
    assert "averages 10 overlapping chunks, older ones weigh 1" in whole

    quantized = printed(capsys, recipe("vla0_lora.yaml", "MODEL.QUANTIZE", "nf4"), [0])
    assert re.search(r"frozen weights \(bfloat16\) +1\.83 GiB\n +frozen weights \(nf4\) +1\.33 GiB", quantized)
    assert "3,814,490,112 parameters" in quantized and "the text tower's frozen matrices are nf4" in quantized


def test_what_ranks_share_is_planned(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    zero1 = printed(capsys, recipe("vla0.yaml", "TRAIN.PARALLEL", "zero1"), EIGHT)
    assert re.search(r"gradients +13\.99 GiB\n +optimizer states \(adamw\) +3\.50 GiB", zero1)
    assert "42.0 GiB each" in zero1 and "rank 0 copies 17.5 GiB to host memory, which is written meanwhile" in zero1
    for name, cards in (("8x24gb", "24, 40, 48, 80"), ("8x40gb", "40, 48, 80"), ("7b_8x80gb", "40, 48, 80")):
        out = printed(capsys, recipe(f"vla0_{name}.yaml"), EIGHT)
        assert f"fits cards of {cards}, 141 GB" in out
    assert "8,292,166,656 parameters" in out  # the published 7B model


def test_with_data_a_real_sample_and_the_steps(capsys, demos):
    cfg = tiny_cfg(DATA__FILES=[str(demos)], DATA__VAL_SHARE=0.25, TRAIN__max_steps=0, TRAIN__epochs=3)
    out = printed(capsys, cfg, nproc=2)
    data = load_data(cfg)
    frames = 48 - 12
    assert "48 frames of 4 demos in 1 file, 64 x 64, rendering fast" in out
    assert f"trained on {frames} frames, held out: 1 demo (DATA.VAL_SHARE 0.25)" in out
    assert data.info["fingerprint"][:16] in out
    assert "54 (3 epochs of 18 steps, DATA.SAMPLER full)" in out
    sample = out[out.index("one sample (") :]
    assert re.search(
        r"synthetic_demo\.hdf5, demo_\d, frame \d+\): \d+ ids; action text: \d+ tokens, \d+ of them learned", sample
    )
    assert "pick up the stripe<|im_end|>" in sample and sample.rstrip().endswith("missing: nothing")
    assert re.search(r"assistant\n( +[\d? ]+\n)* +[\d? ]+<\|im_end\|>", sample)


def test_data_that_cannot_be_used_is_missing_data(capsys, tmp_path):
    out = printed(capsys, tiny_cfg(DATA__FILES=[str(tmp_path / "no.hdf5")]))
    assert f"missing:\n  data: DATA.FILES: {tmp_path / 'no.hdf5'} does not exist" in out


def test_sizes_come_from_the_weights_where_they_lie(capsys, tmp_path):
    folder = make_tiny_checkpoint(tmp_path) / "last/model"
    parameters = sum(p.numel() for p in tiny_model(tiny_cfg()).parameters())
    cfg = recipe("vla0.yaml", "MODEL.PATH", str(folder), "MODEL.TOKENIZER", str(folder))
    out = printed(capsys, cfg)
    assert f"{parameters:,} parameters" in out and "weights:" not in out
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))  # half downloaded: the sizes are known
    out = printed(capsys, cfg)
    assert f"{parameters:,} parameters" in out
    assert f"weights: {folder} holds no model, it lacks model-00002-of-00002.safetensors" in out
    with pytest.raises(ValueError, match=r"holds no model, it lacks model-00002-of-00002\.safetensors"):
        check_weights(cfg, family_of(cfg))


def test_weights_in_the_hubs_cache_are_found_without_the_hub(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--lab--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    model = make_tiny_checkpoint(tmp_path) / "last/model"
    shutil.copytree(model, repository / "snapshots" / ("0" * 40))
    cfg = recipe("vla0.yaml", "MODEL.PATH", "lab/tiny", "MODEL.TOKENIZER", str(model))
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("asked the network"))
    assert "weights:" not in printed(capsys, cfg)
    check_weights(cfg, family_of(cfg))
    tokenizer = tiny_model(tiny_cfg()).prompt.tokenizer
    assert build_backbone(cfg, family_of(cfg), tokenizer).config.text_config.hidden_size == 32


def test_packages_that_a_config_asks_for_are_named(capsys, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    gone = ("flash_attn", "bitsandbytes", "peft")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in gone else found(name, *a))
    monkeypatch.setenv("CXX", "no-such-compiler")
    cfg = tiny_cfg(
        MODEL__ATTENTION="flash_attention_2",
        TRAIN__optimizer="adamw_8bit",
        TRAIN__compile=True,
        DATA__PREPROCESS="reference",
    )
    missing = printed(capsys, cfg, [0]).split("missing:\n")[1]
    for package in ("pip install flash-attn", "pip install bitsandbytes", "no no-such-compiler", "torchvision"):
        assert package in missing
    missing = printed(capsys, recipe("vla0_lora.yaml", "MODEL.QUANTIZE", "nf4"), [0]).split("missing:\n")[1]
    assert "MODEL.LORA needs the package peft: pip install -e '.[lora]'" in missing and "pip install bits" in missing


def test_too_little_room_for_checkpoints_is_said(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "disk: " in printed(capsys, tiny_cfg()).split("missing:\n")[1]


@pytest.mark.parametrize("devices, nproc", [([0], 2), ([0, 0], None), ([-1], None), (None, 0)])
def test_devices_that_make_no_sense_are_refused(devices, nproc):
    with pytest.raises(ValueError, match=r"--(devices|nproc)"):
        dry_run(tiny_cfg(), devices, nproc)


def test_the_start_of_a_run_says_the_same(demos):
    cfg = tiny_cfg(DATA__FILES=[str(demos)])
    model = tiny_model(cfg)
    next(model.parameters()).requires_grad_(False)
    text = describe(cfg, model, load_data(cfg), 24, 48, Rank(0, 2, torch.device("cpu")))
    total = sum(p.numel() for p in model.parameters())
    assert f"{total:,} parameters, {total - next(model.parameters()).numel():,} trained" in text
    assert "48 frames of 4 demos" in text and "0 values outside it are clipped" in text and "2 x CPU" in text


def test_a_prompt_that_asks_for_integers_is_remarked_of_a_policy_without():
    asks = {"PROMPT__SYSTEM": "Answer with {num_values} integers."}

    def line(**more):
        cfg = tiny_cfg(**more)
        return dict(model_lines(cfg, tiny_model(cfg))).get("warning", "")

    flow = flow_opts(DATA__PROPRIO=[])
    assert line(**flow, **asks).startswith("PROMPT.SYSTEM asks for integers, and flow_expert writes none")
    assert not line(**flow, PROMPT__SYSTEM="Move.") and not line(**asks)


def test_an_expert_beside_the_weights_to_begin_with_is_not_taken_and_that_is_said(tmp_path):
    base = make_tiny_base(tmp_path)
    cfg = tiny_cfg(MODEL__INIT="pretrained", MODEL__PATH=str(base), MODEL__VOCAB_CUT=0)
    assert "warning" not in dict(model_lines(cfg, tiny_model(tiny_cfg())))
    (base / "expert.safetensors").touch()
    told = dict(model_lines(cfg, tiny_model(tiny_cfg())))["warning"]
    assert told == f"MODEL.PATH gives the backbone its weights; {base}/expert.safetensors beside them is not taken"


def steps_of(cfg, frames, world_size):
    sampler = ResumableBatchSampler(
        frames, cfg.TRAIN.batch_size, cfg.DATA.SAMPLER, seed=0, rank=0, world_size=world_size
    )
    return count_steps(cfg, sampler.batches_per_epoch)


def test_the_two_recipes_are_one_training_on_eight_gpus():
    full, sharded = recipe("vla0.yaml"), recipe("vla0_sharded.yaml")
    assert steps_of(full, 64 * 1000, 8) == steps_of(sharded, 64 * 1000, 8) == 192 * 1000
    # With the published set the sharded epochs, eight times as many, drop eight times as many incomplete batches.
    assert steps_of(full, PUBLISHED_FRAMES, 8) == 820_392
    assert steps_of(sharded, PUBLISHED_FRAMES, 8) == 820_224
    rates = [
        lr_at(step, 1000, base_lr(cfg.TRAIN, 8), cfg.TRAIN.schedule, cfg.TRAIN.warmup, cfg.TRAIN.lr_end)
        for cfg in (full, sharded)
        for step in (0, 500, 999)
    ]
    assert rates == [pytest.approx(4e-5)] * 6
    # On four GPUs the sharded recipe keeps its passes and its rate.
    half = recipe("vla0_sharded.yaml", "TRAIN.grad_accum", 2)
    assert steps_of(half, 64 * 1000, 4) == 192 * 1000 and base_lr(half.TRAIN, 4) == 4e-5
    same = ("TRAIN", "ACTION", "IMAGE", "PROMPT", "MODEL", "AMP")
    differing = {k for section in same for k in full[section] if full[section][k] != sharded[section][k]}
    assert differing == {"epochs", "lr", "scale_lr", "clip_grad"}


def test_a_run_without_a_step_is_refused():
    with pytest.raises(ValueError, match=r"fewer batches than TRAIN\.grad_accum 4"):
        count_steps(tiny_cfg(TRAIN__max_steps=0, TRAIN__epochs=1, TRAIN__grad_accum=4), batches_per_epoch=3)
