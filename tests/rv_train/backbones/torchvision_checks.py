"""Checks that need torchvision and qwen-vl-utils; `test_reference.py` runs this file in an environment with both.

(torchvision without its compiled half, as on a CPU machine, breaks the library's processor for everybody who only has
it installed, so the other tests run without.)
"""

import pickle

import numpy as np
import pytest
import torch

from rv_eval.policy import Policy
from rv_train.backbones.patches import image_patches
from rv_train.config import load_cfg
from rv_train.data.base import Sample
from rv_train.data.images import jitter
from rv_train.policies.encoding import ObservationEncoder, take_row
from tests.tiny import ROOT, make_tiny_checkpoint, tiny_cfg, tiny_model
from tests.torchvision_on_cpu import import_torchvision

torchvision = import_torchvision()

VARIANTS = {
    "published": ("vla0", {}),
    "one picture per view": ("vla0", {"IMAGE.TILE": False}),
    "no system turn, no vision id": ("vla0", {"PROMPT.SYSTEM": "", "PROMPT.VISION_ID": False}),
    "the smallest picture, vocabulary cut": ("quickstart", {"IMAGE.SIZE": 28, "IMAGE.TILE": False}),
    "Qwen3-VL": ("vla0_qwen3", {}),
    "Qwen3-VL, one picture per view": ("vla0_qwen3", {"IMAGE.TILE": False, "PROMPT.SYSTEM": ""}),
    "Qwen3.5": ("vla0_qwen3_5", {}),
    "Qwen3.5, one picture per view": ("vla0_qwen3_5", {"IMAGE.TILE": False, "PROMPT.SYSTEM": ""}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def encoders(request):
    """(fast, reference) of one recipe."""
    name, more = VARIANTS[request.param]
    opts = [part for pair in more.items() for part in pair]
    tree = ROOT / f"configs/{name}.yaml"
    return tuple(
        ObservationEncoder.from_cfg(load_cfg(tree, [*opts, "DATA.PREPROCESS", p])) for p in ("fast", "reference")
    )


def sample(seed):
    rng = np.random.default_rng(seed)
    views = [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(2)]
    instruction = "put the white mug on the left plate and put the yellow and white mug on the right plate"
    return Sample(views, instruction[: 30 + 10 * seed], None, None, "f", "demo_0", 0)


def same(encoders, fast, reference):
    assert fast["input_ids"].tolist() == reference["input_ids"].tolist()
    assert fast["labels"].tolist() == reference["labels"].tolist()
    assert fast["input_ids"].dtype == reference["input_ids"].dtype == torch.int64
    patches, _ = image_patches(fast["images"], encoders[1].reference.family.patches)
    assert patches.shape == reference["pixel_values"].shape and reference["pixel_values"].dtype == torch.float32
    assert (patches - reference["pixel_values"]).abs().max() <= 1e-6


def test_training_samples_are_the_same(encoders):
    hidden = 0
    for seed in range(4):
        text = "474 479 460 669 391 674 0 " * 3 + "1000 0 5"
        fast, reference = (e.encode_sample(sample(seed), text, np.random.default_rng(seed)) for e in encoders)
        same(encoders, fast, reference)
        hidden += int((fast["input_ids"] == encoders[0].prompt.mask_id).sum())
    assert hidden > 10  # digits were hidden, in both alike


def test_digits_that_somebody_else_has_hidden_are_the_same(encoders):
    fast, reference = (e.encode_sample(sample(0), "XX 5X 1000 X X0 0", None) for e in encoders)
    same(encoders, fast, reference)
    assert int((reference["input_ids"] == encoders[0].prompt.mask_id).sum()) == 5


def test_observations_are_the_same(encoders):
    for seed in range(2):
        s = sample(seed)
        o = {"views": dict(zip(encoders[0].views, s.views, strict=True)), "instruction": s.instruction}
        same(encoders, *(encoder.encode(o) for encoder in encoders))


@torch.no_grad()
def test_the_loss_is_the_same():
    cfgs = [tiny_cfg(DATA__PREPROCESS=p, IMAGE__TILE=False) for p in ("fast", "reference")]
    encoders = [ObservationEncoder.from_cfg(cfg) for cfg in cfgs]
    model = tiny_model(cfgs[0])
    batches = [e.collate([e.encode_sample(sample(seed), "1 22 100") for seed in range(3)]) for e in encoders]
    assert "images" not in batches[1] and batches[0]["lengths"].tolist() == batches[1]["lengths"].tolist()
    for pair in [batches, *([take_row(batch, row) for batch in batches] for row in range(3))]:
        fast, reference = (float(model(batch)["loss"]) for batch in pair)
        assert abs(fast - reference) < 1e-5


def test_a_policy_trained_with_it_is_evaluated_with_it(tmp_path):
    s = sample(0)
    observation = {"views": {"agentview": s.views[0], "eye_in_hand": s.views[1]}, "instruction": s.instruction}
    texts = []
    for preprocess in ("fast", "reference"):
        folder = make_tiny_checkpoint(tmp_path / preprocess, DATA__PREPROCESS=preprocess)
        policy = Policy.from_checkpoint(folder)
        assert (policy.encoder.reference is None) == (preprocess == "fast")
        texts += policy.predict_detailed([observation]).texts
    assert texts[0] == texts[1]


class _Items(torch.utils.data.Dataset):
    def __init__(self, encoder):
        self.encoder = encoder

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.encoder.encode_sample(sample(index), "1 22 100")


def test_it_travels_to_loader_processes():
    encoder = ObservationEncoder.from_cfg(tiny_cfg(DATA__PREPROCESS="reference"))
    here = encoder.collate([_Items(encoder)[index] for index in range(4)])
    copy = pickle.loads(pickle.dumps(encoder))  # how a spawned process gets it
    loader = torch.utils.data.DataLoader(_Items(copy), batch_size=4, num_workers=2, collate_fn=copy.collate)
    (there,) = loader
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


# ------------------------------------------------------------------------------------------------ colour jitter


def pictures():
    """Noise, and soft blobs of colour."""
    generator = torch.Generator().manual_seed(0)
    yield torch.randint(0, 256, (96, 96, 3), generator=generator, dtype=torch.uint8).numpy()
    blobs = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6, generator=generator), 96, mode="bilinear")
    yield (blobs[0].permute(1, 2, 0) * 255).byte().numpy()


def theirs(picture, brightness, contrast, saturation, hue):
    """The four steps on floats, where torchvision rounds nothing."""
    from torchvision.transforms import functional

    x = torch.from_numpy(picture).permute(2, 0, 1) / 255
    x = functional.adjust_saturation(
        functional.adjust_contrast(functional.adjust_brightness(x, brightness), contrast), saturation
    )
    return 255 * functional.adjust_hue(x, hue).permute(1, 2, 0).numpy()


def test_brightness_contrast_and_saturation_are_torchvisions():
    """Equal to the last rounding to bytes (their luma has 0.2989 for red where BT.601 has 0.299)."""
    for picture in pictures():
        for factors in np.random.default_rng(1).uniform(0.8, 1.2, (10, 3)):
            assert np.abs(jitter(picture, *factors, 0.0) - theirs(picture, *factors, 0.0)).max() < 0.52


def test_hue_is_torchvisions_in_steps_of_a_byte():
    for picture in pictures():
        for shift in (-0.05, -0.013, 0.02, 0.05):
            difference = jitter(picture, 1, 1, 1, shift) - theirs(picture, 1, 1, 1, shift)
            assert np.abs(difference).max() < 12 and np.abs(difference).mean() < 1 and abs(difference.mean()) < 0.3


def test_bytes_differ_from_torchvisions_by_where_they_are_cut():
    """torchvision cuts bytes off after every step, so that its pictures get darker; ours are rounded once."""
    from torchvision.transforms import functional

    for picture in pictures():
        x = torch.from_numpy(picture).permute(2, 0, 1)
        for b, c, s in np.random.default_rng(2).uniform(0.8, 1.2, (10, 3)):
            y = functional.adjust_saturation(functional.adjust_contrast(functional.adjust_brightness(x, b), c), s)
            difference = jitter(picture, b, c, s, 0.0).astype(int) - y.permute(1, 2, 0).numpy()
            assert difference.min() >= 0 and difference.max() <= 3 and 1 < difference.mean() < 1.7
