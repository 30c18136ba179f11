"""SmolVLM2's pictures beside the library's: pixels, patches, positions, features and their gradients."""

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image

from rv_train.backbones.base import Pictures
from rv_train.backbones.smolvlm.pictures import cut, grid, image_patches, image_processor_settings
from rv_train.backbones.smolvlm.vision import _places, picture_features
from rv_train.config import load_cfg
from tests.closeness import assert_close
from tests.rv_train.backbones.smolvlm.tiny_smol import lively, smol_cfg
from tests.tiny import ROOT

SMALL, LARGE = (16, 4, 512), (14, 3, 384)  # PATCH, SHUFFLE, PICTURE of 256M and 500M, and of 2.2B
LAYERS = 24  # that round: 10 in each of two blocks (2 norms, 6 products, softmax, gelu), 4 before and behind


def noise(number, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("cuts, side", [(SMALL, 512), (SMALL, 256), (LARGE, 384), (LARGE, 336)])
def test_pixels_are_the_librarys(cuts, side):
    from transformers import SmolVLMImageProcessorPil  # needs no torchvision; the other one: torchvision_checks.py

    patch, pictures = cuts[0], noise(2, side)
    shown = Pictures(2, side, side, *grid(*cuts, side, side))
    library = SmolVLMImageProcessorPil(**image_processor_settings(shown))
    pixels = library([[Image.fromarray(picture) for picture in pictures]], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 2, 3, side, side)
    ours = image_patches(torch.from_numpy(pictures), patch)
    assert ours.shape == (2 * shown.patches, 3 * patch**2)
    assert (ours - cut(pixels.flatten(0, 1), patch)).abs().max() <= 1e-6


def test_patches_are_what_a_convolution_reads():
    pixels = torch.randn(2, 3, 20, 20)
    kernel = torch.nn.Conv2d(3, 5, 6, 6)  # a rest of 2 pixels is left over
    expected = kernel(pixels).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(cut(pixels, 6) @ kernel.weight.flatten(1).T + kernel.bias, expected)


def test_grids():
    assert grid(*SMALL, 512, 512) == (8, 8, 1024) and grid(*SMALL, 64, 64) == (1, 1, 16)
    assert grid(*LARGE, 384, 384) == (9, 9, 729) == grid(*LARGE, 378, 378)


@pytest.mark.parametrize("cuts, side", [(SMALL, 224), (SMALL, 576), (SMALL, 0), (LARGE, 383), (LARGE, 224)])
def test_other_sizes_are_refused(cuts, side):
    patch, shuffle, largest = cuts
    with pytest.raises(ValueError, match=rf"IMAGE\.SIZE must be {largest} or a multiple of {patch * shuffle} below it"):
        grid(*cuts, side, side)


def test_pictures_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"square pictures, not 512 x 1024: set IMAGE\.TILE False"):
        load_cfg(ROOT / "configs/vla0_smol.yaml", ["IMAGE.TILE", True])


# ------------------------------------------------------------------------------------------------ the tower


def library_embeddings(cuts, side, dtype):
    """(the library's module, what it makes of black pixels)"""
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionConfig, SmolVLMVisionEmbeddings

    patch, _, largest = cuts
    sizes = {"hidden_size": 4, "num_attention_heads": 1, "image_size": largest, "patch_size": patch}
    module = SmolVLMVisionEmbeddings(SmolVLMVisionConfig(**sizes)).to(dtype)
    mask = torch.ones(1, side // patch, side // patch, dtype=torch.bool)
    return module, module(torch.zeros(1, 3, side, side, dtype=dtype), mask)[0]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cuts, side", [(SMALL, 512), (SMALL, 448), (SMALL, 64), (LARGE, 384), (LARGE, 168)])
def test_positions_are_the_librarys(cuts, side, dtype):
    module, expected = library_embeddings(cuts, side, dtype)
    places = _places(side // cuts[0], module.num_patches_per_side, torch.device("cpu"))
    same = torch.equal(module.patch_embedding.bias + module.position_embedding(places), expected)
    rounded = Version(transformers.__version__) < Version("5.21")  # 27 of 27 places in bfloat16: two share one
    assert same != (rounded and side == 384 and dtype == torch.bfloat16)
    if side == cuts[2]:
        assert places.tolist() == list(range(module.num_positions))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side, autocast", [(64, False), (128, False), (128, True)])
def test_features_and_gradients_are_the_librarys(tmp_path, side, attention, autocast):
    model = lively(smol_cfg(tmp_path, MODEL__ATTENTION=attention)).backbone.model
    patches = image_patches(torch.from_numpy(noise(3, side, seed=side)), 8)
    shape = (3, side // 8, side // 8, 3, 8, 8)
    pixels = patches.view(shape).permute(0, 3, 1, 4, 2, 5).reshape(3, 3, side, side)

    def library():
        features = model.get_image_features(pixels[None]).pooler_output
        return features.flatten(0, 1) if torch.is_tensor(features) else torch.cat(features)  # newer: a list

    passes = {}
    for way, features_of in {"ours": lambda: picture_features(model, patches, side // 8), "theirs": library}.items():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            features = features_of()
        (features.float() * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        seen = [(n, p.grad.clone()) for n, p in model.named_parameters() if p.grad is not None]
        passes[way] = features.detach(), seen
    (ours, gradients), (theirs, of_library) = passes.values()
    assert ours.shape == (3 * (side // 32) ** 2, 32)
    # Sums have up to 64 terms forward, and one for each patch in the gradient of a weight. Autocast keeps them wide.
    dtype, forward, backward = (torch.bfloat16, 1, 1) if autocast else (torch.float32, 64, len(patches))
    assert_close(ours, theirs, LAYERS * forward, dtype, "features")
    assert len(gradients) == len(of_library) > 30
    for (name, mine), (other, their) in zip(gradients, of_library, strict=True):
        assert name == other
        if name.endswith("k_proj.bias"):
            continue  # nothing but roundings: attention stays the same where all keys move alike
        assert_close(mine, their, 2 * LAYERS * backward, dtype, name)


def test_what_is_kept_may_be_trained_with(tmp_path):
    model = lively(smol_cfg(tmp_path)).backbone.model
    patches = image_patches(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), 8)
    _places.cache_clear()
    with torch.inference_mode():
        picture_features(model, patches, 8)
    picture_features(model, patches, 8).sum().backward()
    assert _places.cache_info().hits == 1
    assert model.vision_model.embeddings.position_embedding.weight.grad is not None
    _places.cache_clear()


def test_weights_that_cut_pictures_differently_are_refused(tmp_path):
    cfg = smol_cfg(tmp_path)
    model = lively(cfg)
    shown = Pictures(2, 64, 64, *grid(16, 2, 128, 64, 64))
    keys = r"MODEL\.VISION\.PATCH 8 MODEL\.VISION\.SHUFFLE 4 MODEL\.VISION\.PICTURE 128"
    with pytest.raises(ValueError, match=f"set {keys} and IMAGE"):
        model.family.towers(model.backbone.config, shown)
    batch = {
        "input_ids": torch.zeros(1, 8, dtype=torch.long),
        "images": torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8),
    }
    with pytest.raises(ValueError, match="cut pictures differently"):
        model.family.embed(model.backbone, batch, model.prompt.image_id, shown)
