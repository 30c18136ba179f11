"""`--sanity_forward`: one batch through the model, the first thing to run on new data."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from yacs.config import CfgNode

from rv_train.backbones import family_of
from rv_train.backbones.loading import check_weights, fetch_pretrained
from rv_train.backbones.lora import check_packages
from rv_train.backbones.running import check_attention
from rv_train.data.load import load_data
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.training_set import TrainingSet
from rv_train.describe import data_lines, table
from rv_train.optim import Precision, resolve_amp
from rv_train.plan import abbreviated
from rv_train.policies import build_encoder, build_policy, policy_class


def sanity_forward(cfg: CfgNode, device: torch.device) -> int:
    """Print the first batch of a run and its loss; writes nothing.

    Batch, weights and precision are those of the run's first step on one rank, so the loss is, too.

    Args:
        device: torch.device to compute on.

    Returns:
        exit code: 0, or 1 where the loss is not a finite number.

    Raises:
        BadInput: data, config or weights that cannot be trained on.
    """
    check_attention(cfg, device, resolve_amp(cfg.AMP.mode, device))
    check_packages(cfg.MODEL)
    check_weights(cfg, family_of(cfg))
    data = load_data(cfg, policy_class(cfg).INTEGERS)
    print(table([*data_lines(cfg, data), *(("warning", remark) for remark in data.remarks)]))
    fetch_pretrained(cfg)
    torch.manual_seed(cfg.EXP.SEED)
    encoder = build_encoder(cfg, data.action_stats)
    sampler = ResumableBatchSampler.from_cfg(cfg, data.train, rank=0, world_size=1)
    samples = TrainingSet(data.train, encoder, cfg.EXP.SEED, wordings=data.wordings)
    keys = next(iter(sampler))
    features = [samples[key] for key in keys]
    batch = encoder.collate(features)

    print("\nbatch")
    for name, tensor in batch.items():
        print(f"  {name:<14}{' x '.join(map(str, tensor.shape)):<24}{str(tensor.dtype).removeprefix('torch.')}")
    print_sample(features[0], samples, keys[0])  # its first sample

    model = build_policy(cfg, encoder).to(device).train()
    torch.manual_seed(cfg.EXP.SEED)
    with torch.no_grad(), Precision(cfg.AMP.mode, device).autocast():
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        result = model(batch)
    loss = result["loss"].item()
    guess, meaning = model.chance(batch)
    print(f"\nloss {loss:.4f} over {result['count']} {model.COUNTED} ({guess:.2f}: {meaning})")
    if not math.isfinite(loss):
        print("the loss is not a finite number")
    return 0 if math.isfinite(loss) else 1


def print_sample(features: Mapping[str, Any], samples: TrainingSet, key: tuple[int, int, int]) -> None:
    """A sample of a TrainingSet in words: what the model reads, and what it shall answer, digits masked as in
    training."""
    ids, encoder = features["input_ids"], samples.encoder
    start = encoder.prompt_length(samples.drawn(key)[0])
    print(f"\nprompt of {samples.dataset.where(key[2])}: {start} tokens")
    print(abbreviated(encoder.prompt, ids[:start]))
    print(f"\n{encoder.target(features, start)}")
    if len(ids) > start:
        print(abbreviated(encoder.prompt, ids[start:]))
