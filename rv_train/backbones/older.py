"""A saved model folder in the form that transformers 4.57 opens, too. The library writes its own form only."""

import json
from pathlib import Path

from libs.errors import BadInput
from libs.files import read_json_object

VERSIONS = {"5": "5.x", "4.57": "4.57 and 5.x"}  # form → versions that open it
# Model types whose logits in 4.57.6 were those of 5.18. It has no qwen3_5, and of a small smolvlm's pictures it makes
# something else: logits were off by 3 %.
KNOWN = ("qwen2_5_vl", "qwen3_vl")
NEW = ("backend", "is_local", "local_files_only")  # of a tokenizer_config.json


def check_known_to_4_57(model_type: str) -> None:
    """BadInput for a model that 4.57 does not have, or computes otherwise."""
    if model_type not in KNOWN:
        raise BadInput(f"a {model_type} cannot be written for transformers 4.57; what can is {', '.join(KNOWN)}")


def rewrite_for_4_57(folder: str | Path) -> None:
    """Change config.json and tokenizer_config.json of a folder in place; weights and vocabulary stay as they are.

    Where 5.x keeps everything about rotary positions in `rope_parameters`, 4.57 reads `rope_theta` and, if there is
    more to say, `rope_scaling`; where 5.x lists special tokens as `extra_special_tokens`, that is a dict in 4.57, and
    the list has its older name. For models that `check_known_to_4_57` lets pass.
    """
    config = read_json_object(Path(folder) / "config.json")
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if isinstance(part, dict) and "rope_parameters" in part:
            part.update(_older_rope(part.pop("rope_parameters")))
    _write(folder, "config.json", config)
    name = "tokenizer_config.json"
    settings = {key: value for key, value in read_json_object(Path(folder) / name).items() if key not in NEW}
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    _write(folder, name, settings)


def _older_rope(parameters):
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    plain = scaling in ({}, {"rope_type": "default"}, {"rope_type": "axial"})  # axial: of pictures, as 4.57 always does
    return {"rope_theta": parameters["rope_theta"]} | ({} if plain else {"rope_scaling": scaling})


def _write(folder, name, content):
    (Path(folder) / name).write_text(json.dumps(content, indent=2) + "\n")
