import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rv_train.backbones.qwen2_5_vl.pictures import image_patches
from rv_train.data.base import Sample
from rv_train.policies.encoding import ObservationEncoder
from tests.tiny import tiny_cfg, tiny_model

INSTRUCTIONS = ("pick up the can", "stack it", "put the white mug on the left plate, then stop")


@pytest.fixture(scope="module", params=[True, False], ids=["tiled", "separate"])
def setup(request):
    cfg = tiny_cfg(IMAGE__TILE=request.param)
    model = tiny_model(cfg)
    with torch.no_grad():  # a random tied head repeats one digit for ever: make the next token depend on the last
        noise = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.15)
    return cfg, model, ObservationEncoder.from_cfg(cfg)


def observation(seed):
    rng = np.random.default_rng(seed)
    views = {v: rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for v in ("agentview", "eye_in_hand")}
    return {"views": views, "instruction": INSTRUCTIONS[seed % 3]}


def training_batch(encoder, count=3):
    samples = []
    for seed in range(count):
        o = observation(seed)
        samples.append(Sample(list(o["views"].values()), o["instruction"], None, None, "f", "demo_0", 0))
    return encoder.collate([encoder.encode_sample(s, "1 22 100 0 5 66 7") for s in samples])


def test_loss_equals_the_librarys_over_full_logits(setup):
    """The whole model as the library runs it: attention mask, its own positions, every logit, shifted labels."""
    _, model, encoder = setup
    batch = training_batch(encoder)
    ids, grid_rows, grid_columns = batch["input_ids"], 2 * model.prompt.pictures.rows, 2 * model.prompt.pictures.columns
    labels = torch.full_like(ids, -100)
    labels.view(-1)[batch["label_index"] + 1] = batch["label_ids"]
    patches, grid = image_patches(batch["images"].flatten(0, 1))
    assert grid[0].tolist() == [1, grid_rows, grid_columns]
    with torch.no_grad():
        logits = model.backbone(
            input_ids=ids,
            attention_mask=(torch.arange(ids.shape[1]) < batch["lengths"][:, None]).long(),
            pixel_values=patches,
            image_grid_thw=grid,
            mm_token_type_ids=(ids == encoder.prompt.image_id).int(),
        ).logits
        theirs = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        ours = model(batch)["loss"]
    assert abs(float(ours - theirs)) < 1e-5


def test_patches_of_another_16_bit_kind_than_autocasts():
    """AMP.mode fp16 over frozen bfloat16 weights: autocast refuses to join numbers of a third kind."""
    pictures = torch.randint(0, 256, (1, 28, 28, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.float16):
        patches, _ = image_patches(pictures, torch.bfloat16)
    assert torch.equal(patches, image_patches(pictures)[0].bfloat16())


def may_follow(text, letter, numbers, num_bins):
    """Whether an answer may begin with `text` and then `letter`; "" is its end."""
    words = text.split(" ")
    if letter.isdigit():
        longer = words[-1] + letter
        return longer == str(int(longer)) and int(longer) <= num_bins
    return words[-1] != "" and letter == ("" if len(words) == numbers else " ")


def recompute_greedily(model, encoder, features, steps):
    """Every token from a full forward pass over everything before it, of those with which it may become an answer."""
    prompt, ids = encoder.prompt, features["input_ids"].tolist()
    letters = {id: prompt.decode([id]) for id in [*prompt.digit_ids, prompt.space_id]} | {prompt.end_id: ""}
    batch, text = encoder.collate([features]), ""
    for _ in range(steps):
        prompted = model._embed({**batch, "input_ids": torch.tensor([ids])})
        hidden = model.family.text(model.backbone)(**prompted.inputs, use_cache=False)
        logits = model.backbone.lm_head(hidden.last_hidden_state[0, -1])
        numbers = model.decoder.grammar.numbers
        allowed = [id for id in letters if may_follow(text, letters[id], numbers, model.codec.num_bins)]
        ids.append(max(allowed, key=lambda id: float(logits[id])))
        text += letters[ids[-1]]
        if ids[-1] == prompt.end_id:
            break
    return text


@torch.no_grad()
def test_decoding_equals_full_recomputation_alone_and_in_a_batch(setup):
    _, model, encoder = setup
    features = [encoder.encode(observation(seed)) for seed in range(6)]
    together = model.predict(encoder.collate(features))
    for row, one in enumerate(features):
        assert model.predict(encoder.collate([one])).texts == [together.texts[row]]
        assert recompute_greedily(model, encoder, one, 56) == together.texts[row][:56]
    assert len(set(together.texts)) > 1 and len(set("".join(together.texts))) > 2  # not one digit for ever
    assert together.chunk.shape == (6, 2, 7)
