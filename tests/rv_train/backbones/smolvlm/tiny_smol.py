"""A tiny SmolVLM2 whose answers depend on everything before them."""

import torch

from tests.tiny import tiny_cfg, tiny_model, tiny_recipe


def smol_cfg(folder, **more):
    """The family's tiny sizes; folder: where the recipe is written."""
    return tiny_cfg(tiny_recipe(folder, "smolvlm"), **more)


def lively(cfg):
    """Random weights so large that the next token depends on the last."""
    model, noise = tiny_model(cfg), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.15)
    return model
