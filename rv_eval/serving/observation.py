"""What a client asks a policy server: an observation in one of two forms, checked.

Our own:   {"views": {camera: (H, W, 3) uint8 upright}, "instruction": str}
           and where the policy is given the robot's state "proprio": {part: floats}, or (P,) floats, the parts one
           after another; if wanted "random_key": list of ints, the seed of the sampling noise, and "draft": list of
           ints, what the text will probably say, which never changes it, and where the metadata's "takes_prefix" is
           true, "prefix": (d, A) floats, the actions that the chunk begins with.
openpi's:  {"observation/image": (H, W, 3) uint8 upright, "observation/wrist_image": the same, "prompt": str}
           and "observation/state": (P,) floats, or a key "observation/PART" for each part. A policy's own keys are
           what `openpi_keys` says: they stand in the server's metadata.

A picture may also be a file, PNG or JPEG, see `rv_eval.serving.pictures`.

Other entries, pictures of other cameras, and other parts of the robot's state are ignored: clients send what their
other policies need. A picture of another shape than those of training is fitted as the metadata say ("pictures").
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from libs.errors import BadInput
from rv_eval.serving.pictures import EncodedPicture
from rv_eval.serving.protocol import (
    MAX_DRAFT,
    MAX_INSTRUCTION,
    MAX_PIXELS,
    MAX_PROPRIO,
    MAX_RANDOM_KEY,
    MAX_SIDE,
    MIN_SIDE,
    OPENPI_IMAGE,
    OPENPI_PREFIX,
    OPENPI_PROMPT,
    OPENPI_STATE,
    openpi_keys,
)


def read_observation(message: Any, views: Sequence[str], proprio: Collection[str]) -> dict:
    """An observation as `Policy.predict_detailed` takes it, of one of the two forms above.

    views: cameras that the policy looks at. proprio: {part of the robot's state that it is given: numbers in it}.
    BadInput: a view or a part is missing, or something is not as above or beyond a limit.
    """
    if not isinstance(message, dict):
        raise BadInput(f"an observation is a map, this is a {type(message).__name__}")
    keys = openpi_keys(views, proprio)["views"]
    if "views" in message:
        keys = {view: view for view in views}
        pictures, instruction = message["views"], message.get("instruction")
        if not isinstance(pictures, dict):
            raise BadInput("views: a map of camera names to pictures")
        state_key, state = "proprio", message.get("proprio")
    elif any(name.startswith(OPENPI_PREFIX) for name in message):
        pictures, instruction = message, message.get(OPENPI_PROMPT)
        for view in views:  # by the camera's own name it is always understood
            if keys[view] not in message and OPENPI_PREFIX + view in message:
                keys[view] = OPENPI_PREFIX + view
        state_key, state = OPENPI_STATE, _openpi_state(message, proprio) if proprio else None
    else:
        raise BadInput(f'an observation has "views" or "{OPENPI_IMAGE}", this has {_names(message)}')
    for view in views:
        if keys[view] not in pictures:
            key = "" if keys[view] == view else f' under the key "{keys[view]}"'
            raise BadInput(
                f"the observation has no view {view}{key}, only {_names(pictures)}; the policy looks at "
                f"{', '.join(views)}"
            )
    _check_instruction(instruction)
    seen = {view: _checked_picture(pictures[keys[view]], view) for view in views}
    more = {}
    if proprio:
        more["proprio"] = _chosen_state(state, proprio, state_key)
    elif state is not None:
        _check_unused_state(state, state_key)
    if "random_key" in message:
        more["random_key"] = _ints(message["random_key"], "random_key", MAX_RANDOM_KEY)
    if "draft" in message:
        more["draft"] = _ints(message["draft"], "draft", MAX_DRAFT)
    if "prefix" in message:
        more["prefix"] = _checked_prefix(message["prefix"])
    return {"views": seen, "instruction": instruction, **more}


def _checked_picture(picture, view):
    if isinstance(picture, EncodedPicture):
        try:
            picture = picture.decode()
        except BadInput as error:
            raise BadInput(f"view {view}: {error}") from None
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
        raise BadInput(f"view {view}: a picture is (H, W, 3) uint8, not {_found(picture)}")
    height, width, channels = picture.shape
    fits = min(height, width) >= MIN_SIDE and max(height, width) <= MAX_SIDE and height * width <= MAX_PIXELS
    if channels != 3 or not fits:
        raise BadInput(
            f"view {view}: a picture has sides of {MIN_SIDE} to {MAX_SIDE} pixels, at most {MAX_PIXELS:,} of them, and "
            f"3 colours, not {picture.shape}"
        )
    return picture


def _check_instruction(text):
    if not isinstance(text, str) or not text.strip():
        raise BadInput("the instruction is missing, empty or not a string")
    if len(text.encode()) > MAX_INSTRUCTION:
        raise BadInput(f"the instruction has {len(text.encode())} bytes, at most {MAX_INSTRUCTION} are taken")
    # The tokenizer reads its own marks in any text; one that stands for a picture would move the pictures of the
    # other rows of the batch.
    if "<|" in text:
        raise BadInput('the instruction holds "<|", with which the marks of the model begin')


def _openpi_state(message, proprio):
    """The state under its one key, or else its parts under theirs; None where there is neither."""
    parts = {part: message[OPENPI_PREFIX + part] for part in proprio if OPENPI_PREFIX + part in message}
    return message.get(OPENPI_STATE, parts or None)


def _chosen_state(given, parts, key):
    """(P,) floats: the parts that a policy is given, in their order, one after another.

    key: under which it was looked for, for what is said about it.
    """
    total = sum(parts.values())
    sizes = ", ".join(f"{name} ({size})" for name, size in parts.items())
    wanted = f"the policy is given {sizes}: {total} finite floats in one array, or an array for each part"
    if given is None:
        raise BadInput(f"the observation has no {key}; {wanted}")
    what = f"the observation's {key} has"
    if not isinstance(given, dict):
        return _floats(given, total, what, "", wanted)
    for name in parts:
        if name not in given:
            raise BadInput(f"{what} no {name}; {wanted}")
    return np.concatenate([_floats(given[name], size, what, f" of {name}", wanted) for name, size in parts.items()])


def _floats(values, size, what, part, wanted):
    if not _are_floats(values):
        found = _found(values) if isinstance(values, np.ndarray) else f"a {_found(values)}"
        raise BadInput(f"{what} {found}{part}; {wanted}")
    if len(values) != size:
        raise BadInput(f"{what} {len(values)} numbers{part}; {wanted}")
    if not np.isfinite(values).all():
        raise BadInput(f"{what} {np.count_nonzero(~np.isfinite(values))} numbers{part} that are not finite; {wanted}")
    return values


def _check_unused_state(given, key):
    """A policy that is given no state still says what no policy would take."""
    for values in given.values() if isinstance(given, dict) else [given]:
        if not _are_floats(values) or len(values) > MAX_PROPRIO or not np.isfinite(values).all():
            raise BadInput(
                f"{key}: an array of at most {MAX_PROPRIO} finite floats, or a map of such arrays, not {_found(values)}"
            )


def _are_floats(values):
    return isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1


def _ints(values, name, most):
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    fits = isinstance(values, list) and len(values) <= most
    if not fits or not all(type(number) is int and 0 <= number < 2**63 for number in values):
        raise BadInput(f"{name}: a list of at most {most} ints, none negative")
    return tuple(values)


def _checked_prefix(values):
    """Its shape is the policy's to check."""
    numbers = isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 2
    if not numbers or values.size > MAX_DRAFT or not np.isfinite(values).all():
        raise BadInput(f"prefix: an array (d, A) of at most {MAX_DRAFT} finite floats, not {_found(values)}")
    return values


def _found(value):
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _names(message):
    return ", ".join(repr(str(name)[:30]) for name in list(message)[:8]) or "nothing"
