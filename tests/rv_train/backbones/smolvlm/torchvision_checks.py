"""SmolVLM2 beside the library's own processor, which needs torchvision and num2words; run by `test_reference.py`."""

import json

import numpy as np
import pytest
import torch

from rv_train.backbones.smolvlm.pictures import cut, image_patches
from rv_train.config import load_cfg
from rv_train.data.base import Sample
from rv_train.policies.encoding import ObservationEncoder, take_row
from tests.rv_train.backbones.smolvlm.tiny_smol import lively, smol_cfg
from tests.tiny import ACTION_STATS, ROOT
from tests.torchvision_on_cpu import import_torchvision

torchvision = import_torchvision()

INSTRUCTION = "put the white mug on the left plate and put the yellow and white mug on the right plate"
VARIANTS = {
    "the recipe": [],
    "no system turn": ["PROMPT.SYSTEM", ""],
    "one view, small": ["IMAGE.SIZE", 64, "DATA.VIEWS", ["agentview"]],
    "2.2B": ["MODEL.VISION.PATCH", 14, "MODEL.VISION.SHUFFLE", 3, "MODEL.VISION.PICTURE", 384, "IMAGE.SIZE", 384],
}


@pytest.fixture(scope="module", params=VARIANTS)
def encoders(request):
    """(fast, reference, pixels of a patch)"""
    opts = VARIANTS[request.param]
    trees = [load_cfg(ROOT / "configs/vla0_smol.yaml", [*opts, "DATA.PREPROCESS", p]) for p in ("fast", "reference")]
    return *(ObservationEncoder.from_cfg(tree) for tree in trees), trees[0].MODEL.VISION.PATCH


def sample(seed, views=2):
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(views)]
    return Sample(frames, INSTRUCTION[: 30 + 10 * seed], None, None, "f", "demo_0", 0)


def same(fast, reference, patch):
    assert fast["input_ids"].tolist() == reference["input_ids"].tolist()
    assert fast["labels"].tolist() == reference["labels"].tolist()
    patches = image_patches(fast["images"], patch)
    assert reference["pixel_values"].dtype == torch.float32 and reference["pixel_values"].dim() == 5
    assert (patches - cut(reference["pixel_values"].flatten(0, 1), patch)).abs().max() <= 1e-6


def test_training_samples_and_observations_are_the_same(encoders):
    fast, reference, patch = encoders
    number = fast.prompt.pictures.number
    for seed in range(3):
        s, text = sample(seed, number), "474 479 460 669 391 674 0 " * 3 + "1000 0 5"
        same(*(e.encode_sample(s, text, np.random.default_rng(seed)) for e in (fast, reference)), patch)
        same(*(e.encode_sample(s, "XX 5X 1000 X X0 0", None) for e in (fast, reference)), patch)
        o = {"views": dict(zip(fast.views, s.views, strict=True)), "instruction": s.instruction}
        same(*(e.encode(o) for e in (fast, reference)), patch)


@torch.no_grad()
def test_the_loss_is_the_same(tmp_path):
    cfgs = [smol_cfg(tmp_path, DATA__PREPROCESS=p) for p in ("fast", "reference")]
    encoders, model = [ObservationEncoder.from_cfg(cfg) for cfg in cfgs], lively(cfgs[0])
    batches = [e.collate([e.encode_sample(sample(seed), "1 22 100") for seed in range(3)]) for e in encoders]
    for pair in [batches, *([take_row(batch, row) for batch in batches] for row in range(3))]:
        fast, reference = (float(model(batch)["loss"]) for batch in pair)
        assert abs(fast - reference) < 1e-5


def test_a_saved_folder_is_the_librarys(tmp_path):
    """Its AutoProcessor makes the same prompt and pixels of the same picture, without this repository."""
    from PIL import Image
    from transformers import AutoProcessor

    from rv_train.checkpoint import save_model_folder

    cfg = smol_cfg(tmp_path)
    model, folder = lively(cfg), tmp_path / "model"
    save_model_folder(folder, model, cfg, ACTION_STATS, {})
    assert json.loads((folder / "processor_config.json").read_text())["image_seq_len"] == 4
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "SmolVLMProcessor"
    encoder = ObservationEncoder.from_cfg(cfg)
    ours = encoder.encode_sample(sample(0), "1 22 100")
    pictures = [Image.fromarray(picture) for picture in ours["images"].numpy()]
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": INSTRUCTION[:30]}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "1 22 100"}]}
    text = processor.apply_chat_template([{"role": "user", "content": content}, answer])
    theirs = processor(text=[text], images=[pictures], return_tensors="pt")
    assert theirs["input_ids"][0].tolist() == ours["input_ids"].tolist()
    assert (cut(theirs["pixel_values"].flatten(0, 1), 8) - image_patches(ours["images"], 8)).abs().max() <= 1e-6


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(ValueError, match="needs the package num2words: pip install num2words"):
        ObservationEncoder.from_cfg(smol_cfg(tmp_path, DATA__PREPROCESS="reference"))
