"""Windows at once and patches as a product, beside the library's own vision tower: the same up to the order of sums."""

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionPatchEmbed, Qwen2_5_VLVisionAttention

from rv_train.backbones.qwen2_5_vl.pictures import image_patches
from rv_train.backbones.qwen2_5_vl.vision import OWN, AlignedMLP, PatchEmbed, VisionAttention, _layout, see
from rv_train.backbones.running import use_own
from tests.closeness import assert_close
from tests.tiny import tiny_cfg, tiny_model

# 112 pixels are 4 image tokens, one window; 168 are 6: windows of 4 and 2; 224: two windows, where 2 views are four
LAYERS = 22  # that round: 9 in each of two blocks (2 norms, 4 products, 2 in attention, softmax), 4 before and behind
SIDES = {56: "half a window", 112: "one window", 168: "windows of two lengths", 224: "several windows"}


def tower(attention, dtype=torch.float32):
    """Layers with windows and without."""
    cfg = tiny_cfg(MODEL__ATTENTION=attention, MODEL__VISION__FULL_ATTENTION=[1])
    return tiny_model(cfg).backbone.model.visual.to(dtype)


def passed(visual, patches, rows, columns, library):
    """(features, gradients) by this code, or by the library alone."""
    for block in visual.blocks:
        block.attn.__class__ = Qwen2_5_VLVisionAttention if library else VisionAttention
    visual.patch_embed.__class__ = Qwen2_5_VisionPatchEmbed  # compared below
    visual.zero_grad()
    if library:
        grid = torch.tensor([[1, rows, columns]]).expand(len(patches) // (rows * columns), 3)
        features = visual(patches, grid_thw=grid).pooler_output
    else:
        features = see(visual, patches, rows, columns).pooler_output
    (features.float() * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    return features.detach(), [parameter.grad.clone() for parameter in visual.parameters()]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("autocast", [False, True])
def test_features_and_gradients_are_the_librarys(side, attention, autocast):
    visual = tower(attention)
    generator = torch.Generator().manual_seed(side)
    images = torch.randint(0, 256, (3, side, 2 * side, 3), dtype=torch.uint8, generator=generator)
    patches, grid = image_patches(images)
    rows, columns = grid[0, 1:].tolist()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (features, gradients), (expected, of_library) = (
            passed(visual, patches, rows, columns, library) for library in (False, True)
        )
    assert features.shape == (3 * rows * columns // 4, 32)
    # Sums have up to 64 terms forward, and one for each patch in the gradient of a weight. Autocast keeps them wide.
    dtype, forward, backward = (torch.bfloat16, 1, 1) if autocast else (torch.float32, 64, len(patches))
    assert_close(features, expected, LAYERS * forward, dtype, "features")
    for (name, _), mine, theirs in zip(visual.named_parameters(), gradients, of_library, strict=True):
        assert_close(mine, theirs, 2 * LAYERS * backward, dtype, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_patches_are_embedded_as_by_the_librarys_convolution(dtype):
    patches, _ = image_patches(torch.randint(0, 256, (1, 56, 112, 3), dtype=torch.uint8))
    ours, embed = tower("sdpa", dtype).patch_embed, {}
    assert type(ours) is PatchEmbed
    for own in (PatchEmbed, Qwen2_5_VisionPatchEmbed):
        ours.__class__ = own
        ours.zero_grad()
        features = ours(patches)
        (features.float() * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        embed[own] = features.detach(), ours.proj.weight.grad.clone()
    (features, gradient), (expected, of_library) = embed.values()
    assert_close(features, expected, patches.shape[1], name="features")
    assert_close(gradient, of_library, len(patches), name="gradient")


def test_the_librarys_own_modules_can_be_had_back():
    backbone = tiny_model(tiny_cfg()).backbone
    kinds = {own: [type(module) for module in use_own(backbone, OWN, own).modules()] for own in (True, False)}
    assert {PatchEmbed, VisionAttention} <= set(kinds[True])
    assert not {PatchEmbed, VisionAttention} & set(kinds[False])


def test_windows_of_one_length_are_one_call(monkeypatch):
    visual, calls = tower("sdpa"), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        calls.append(tuple(query.shape[:3]))
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    patches, _ = image_patches(torch.zeros(3, 224, 224, 3, dtype=torch.uint8))
    see(visual, patches, 16, 16)
    assert calls == [(12, 2, 64), (3, 2, 256)]  # (windows, heads, patches)


def test_what_is_kept_may_be_trained_with():
    visual = tower("sdpa")
    patches, _ = image_patches(torch.zeros(1, 56, 56, 3, dtype=torch.uint8))
    _layout.cache_clear()
    with torch.inference_mode():
        see(visual, patches, 4, 4)
    see(visual, patches, 4, 4).pooler_output.sum().backward()
    assert _layout.cache_info().hits == 1 and visual.patch_embed.proj.weight.grad is not None
    _layout.cache_clear()


def test_flash_attention_is_given_lengths_on_the_device():
    sizes = (2, 16, 32, 2, 112, 14, torch.device("cpu"))
    flash, other = _layout(*sizes, True), _layout(*sizes, False)
    assert (flash["max_seqlen"], flash["max_window_seqlen"]) == (512, 64)
    assert not {"max_seqlen", "max_window_seqlen"} & set(other)
    assert other["cu_seqlens"].tolist() == [0, 512, 1024] and len(other["cu_window_seqlens"]) == 17


def test_an_mlp_of_odd_width_is_padded_with_zeros(monkeypatch):
    """As on a GPU in 16 bits, where rows that begin anywhere are slow: the same numbers and gradients."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLMLP

    cfg = tiny_cfg(MODEL__VISION__MLP=60)
    mlp = tiny_model(cfg).backbone.model.visual.blocks[0].mlp.double()
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    assert type(mlp) is AlignedMLP and mlp.gate_proj.weight.shape == (60, 32)
    sizes, linear = [], torch.nn.functional.linear
    results = []
    for forward in (lambda x: mlp.padded(x, torch.float64), lambda x: Qwen2_5_VLMLP.forward(mlp, x), mlp):
        x = torch.linspace(-1, 1, 5 * 32, dtype=torch.float64).view(5, 32).requires_grad_()
        mlp.zero_grad()
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.nn.functional, "linear", lambda x, w, b: sizes.append(tuple(w.shape)) or linear(x, w, b)
            )
            forward(x).square().sum().backward()
        results.append([x.grad, *(parameter.grad.clone() for parameter in mlp.parameters())])
    assert sizes == [(64, 32), (64, 32), (32, 64)] + 2 * [(60, 32), (60, 32), (32, 60)]
    for padded, library, on_a_cpu in zip(*results, strict=True):
        torch.testing.assert_close(padded, library, rtol=1e-12, atol=1e-12)
        assert torch.equal(library, on_a_cpu)
