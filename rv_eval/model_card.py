"""A model card: what a policy is, and how it is asked by `transformers` alone, as code that runs as it stands."""

import inspect
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from rv_train.backbones.prompt import STATE
from rv_train.data.forms import form_text

if TYPE_CHECKING:
    from rv_eval.policy import Policy

MARK = "\0"  # where the instruction goes

CARD = """---
library_name: transformers
tags: [robotics, vision-language-action]
---

# A policy for a robot, in {title}

{kind}. Opens with transformers {versions}.

{recipe}
{more}"""

TEXT = """It looks at {cameras}, reads an instruction, and writes the next {horizon} actions of {dim} numbers as
{values} integers from 0 to {bins}, which are spread over the range of its training data, dimension by dimension.

| step | |
|---|---|
| frames | RGB, upright, of {sizes} (height x width) as in training |
| cut | {cut} |
| resized | to {height} x {width}, area averaged where that shrinks, linear where it grows |
| shown | {shown} |
| prompt | `HEAD + instruction + TAIL` below |
| answer | {values} integers, the likeliest token each time |
| action | `low + integer / {bins} * (high - low)`; where `low` equals `high`, always that{differences} |
| executed | {executed} |

This needs `transformers`, PyTorch, numpy and OpenCV, and does what this repository's own server does, which besides
lets the model write nothing but such integers:

```python
{code}
```
"""

CODE = """import cv2
import numpy as np
import torch
import transformers
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

FOLDER = {address}  # of this card
CAMERAS = [  # name; top, left, height and width of what is seen of a frame; (width, height) it is resized to, and how
{cameras}
]
HEAD = {head}
TAIL = {tail}
LOW = np.array({low})
HIGH = np.array({high})
{state_range}tokenizer, processor = AutoTokenizer.from_pretrained(FOLDER), AutoImageProcessor.from_pretrained(FOLDER)
model = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32).eval()


def inputs(frames, instruction{state}):  # {{camera: (height, width, 3) uint8}}, text{state_form}
    cuts = [(frames[name][t : t + h, l : l + w], size, how) for name, t, l, h, w, size, how in CAMERAS]
    seen = [cv2.resize(cut, size, interpolation=how) for cut, size, how in cuts]
{bars}{integers}    words = tokenizer(HEAD + instruction{state_text} + TAIL, return_tensors="pt")
    batch = {{**words, **processor(images={images}, return_tensors="pt")}}
{types}


def actions(frames, instruction{state}):  # -> ({horizon}, {dim}) float32
    batch = inputs(frames, instruction{state})
    ids = model.generate(**batch, max_new_tokens={longest}, do_sample=False)[0, batch["input_ids"].shape[1] :]
    words = tokenizer.decode(ids, skip_special_tokens=True).split()[: {values}]
    written = np.array(words, dtype=float).reshape({horizon}, {dim})
{result}"""

BARS = """    room = [({} - one.shape[0], {} - one.shape[1]) for one in seen]
    around = [((y // 2, y - y // 2), (x // 2, x - x // 2), (0, 0)) for y, x in room]
    seen = [np.pad(one, bars) for one, bars in zip(seen, around)]
"""
TYPES = """    if transformers.__version__ >= "5":  # tells pictures from words by this, 4.57 by itself
        batch["mm_token_type_ids"] = (batch["input_ids"] == model.config.image_token_id).int()
    return batch"""
STATE_RANGE = """STATE_LOW, STATE_SPAN = np.array({low}), np.array({span})
"""
STATE_INTEGERS = """    state = np.rint(np.clip((state - STATE_LOW) / STATE_SPAN, 0, 1) * {bins}).astype(int)
"""
RESULT = "    return (LOW + written / {} * (HIGH - LOW)).astype(np.float32)"
DIFFERENCES = """    chunk = LOW + written / {bins} * (HIGH - LOW)
    chunk[:, {relative}] = chunk[:, {relative}]{summed} + np.asarray(state)[{origin}]
    return chunk.astype(np.float32)"""
TURNED = """It writes {form}, which this repository turns into actions: `tools/serve_policy.py --model_path FOLDER`.
`transformers` opens the model, but the numbers that it writes are no actions.
"""
OWN = """Its actions come out of an expert beside the vision-language model, which only this repository knows:
`tools/serve_policy.py --model_path FOLDER`. `transformers` opens the vision-language model, where its weights are here.
"""


def model_card(policy: "Policy", versions: str, address: str = ".", sections: Iterable[str] = ()) -> str:
    """The card of a policy, Markdown.

    versions: of transformers, that open the folder it stands in. address: that folder as its code names it, or its name
    on the hub. sections: what else it says, see `rv_eval.card_sections`.
    """
    family, of_text = policy.model.family, policy.model.INTEGERS
    kind = "Vision-language model " + ("that writes actions (VLA-0)" if of_text else "with an action expert")
    form = policy.encoder.form
    recipe = OWN if not of_text else TURNED.format(form=form_text(form)) if form.rotations else _text(policy, address)
    more = "".join(f"\n{section.rstrip()}\n" for section in sections)
    return CARD.format(title=family.name, kind=kind, versions=versions, recipe=recipe.rstrip(), more=more)


def _text(policy, address):
    encoder, pictures, preset = policy.encoder, policy.pictures, policy.preset
    height, width = pictures["size"]
    cut = f"to the middle {encoder.transform.crop:g} of height and width"
    if pictures["fit"] == "crop":
        cut = f"to the middle that has the shape of {height} x {width}, then {cut}"
    bars = ", between black bars" if pictures["fit"] == "pad" else ""
    executed = f"{preset.n_action_steps or policy.horizon} of the {policy.horizon} actions, then the model looks again"
    if preset.ensemble_size > 1:
        executed += (
            f"; {preset.ensemble_size} chunks are averaged where they overlap (version {preset.ensemble_version}, "
            f"weight {preset.ensemble_weight:g})"
        )
    return TEXT.format(
        cameras=", ".join(policy.views),
        horizon=policy.horizon,
        dim=policy.action_dim,
        values=policy.horizon * policy.action_dim,
        bins=encoder.num_bins,
        differences=f"; {form_text(encoder.form)}, which is added then" if encoder.form.relative else "",
        sizes=", ".join("{} x {}".format(*pictures["cameras"][view]) for view in policy.views),
        cut=cut,
        height=height,
        width=f"{width}{bars}",
        shown="side by side in one picture" if encoder.transform.tile else "one picture each",
        executed=executed,
        code=_code(policy, address),
    )


def _code(policy, address):
    encoder, transform = policy.encoder, policy.encoder.transform
    prompt, codec, state = encoder.prompt, encoder.codec, encoder.state_codec
    plans = {view: transform.evaluation_plan(*policy.pictures["cameras"][view]) for view in policy.views}
    head, tail = prompt.chat.prompt(prompt.system, prompt.pictures, MARK, prompt.numbered).split(MARK)
    sizes = {plan.resized for plan in plans.values()}
    takes = inspect.signature(policy.model.backbone.forward).parameters
    types = "mm_token_type_ids" in takes  # without them the library would number all positions in one row
    return CODE.format(
        address=json.dumps(address),
        cameras="\n".join(f"    {_camera(view, plan)}," for view, plan in plans.items()),
        head=_shortened(head, prompt.chat.image),
        tail=repr(tail),
        low=codec.low.tolist(),
        high=codec.high.tolist(),
        bars="" if sizes == {(transform.height, transform.width)} else BARS.format(transform.height, transform.width),
        images="[np.hstack(seen)]" if transform.tile else "seen",
        types=TYPES if types else "    return batch",
        horizon=policy.horizon,
        dim=policy.action_dim,
        values=policy.horizon * policy.action_dim,
        bins=encoder.num_bins,
        longest=policy.model.decoder.grammar.longest,
        state=", state" if policy.proprio else "",
        state_form=f", {' and '.join(policy.proprio)} in one array" if policy.proprio else "",
        result=_result(encoder),
        state_range=_state_range(state) if policy.proprio else "",
        state_text=f' + {STATE!r} + " ".join(map(str, state))' if policy.proprio else "",
        integers=STATE_INTEGERS.format(bins=encoder.num_bins) if policy.proprio else "",
    )


def _camera(view, plan):
    shrinks = plan.height * plan.width > plan.resized[0] * plan.resized[1]
    how = "cv2.INTER_AREA" if shrinks else "cv2.INTER_LINEAR"
    numbers = f"{plan.top}, {plan.left}, {plan.height}, {plan.width}, ({plan.resized[1]}, {plan.resized[0]})"
    return f"({view!r}, {numbers}, {how})"


def _result(encoder):
    """From what is written to actions: of differences what they are relative to is added."""
    form = encoder.form
    if form.plain:
        return RESULT.format(encoder.num_bins)
    summed = ".cumsum(axis=0)" if form.to_before else ""
    numbers = {"relative": list(form.relative), "origin": list(form.origin)}
    return DIFFERENCES.format(bins=encoder.num_bins, summed=summed, **numbers)


def _state_range(codec):
    span = np.where(codec.high > codec.low, codec.high - codec.low, 1.0)
    return STATE_RANGE.format(low=codec.low.tolist(), span=span.tolist())


def _shortened(text, image):
    """A text as Python, runs of the image token written as a product."""
    parts = re.split(f"((?:{re.escape(image)}){{2,}})", text)
    return " + ".join(
        f"{len(part) // len(image)} * {image!r}" if place % 2 else repr(part)
        for place, part in enumerate(parts)
        if part
    )
