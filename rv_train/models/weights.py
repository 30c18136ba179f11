"""The weights of the backbone: the library's own Qwen2.5-VL class, pretrained or random at any size, and its files."""

import contextlib
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError

from libs.errors import BadInput, first_line
from libs.files import kind_of, read_json_object
from rv_train.data.prompt import MERGE, PATCH
from rv_train.data.tokenizer import token_id
from rv_train.models.lora import attach, is_frozen, read_base, save_adapter, weights_sha256
from rv_train.models.qwen import DTYPES, FLASH, IMAGE_MEAN, IMAGE_STD, TEMPORAL_PATCH, has_flash

EXPERT = "expert.safetensors"  # the weights of an action expert, beside those of the backbone or alone
MODEL_TYPE = "qwen2_5_vl"  # in config.json
BASE_COPY = "base"  # in a model folder: a copy of the frozen weights
BASE_VARIABLE = "VLA0_BASE"  # of the environment: where the weights below what was trained lie on this machine


def build_backbone(cfg, tokenizer, weights=None):
    """`Qwen2_5_VLForConditionalGeneration` in the dtype of the config; frozen, with adapters or without, if it says so.

    Args:
        cfg: the config tree (MODEL, AMP).
        tokenizer: gives vocabulary size and special ids for a random model.
        weights: folder that `save_weights` wrote; None follows MODEL.INIT.
    Raises:
        BadInput: weights that cannot be found, or not those that something was trained over.
    """
    from rv_train.models.vision import use_own_vision

    return use_own_vision(_build(cfg, tokenizer, weights))


def _build(cfg, tokenizer, weights):
    attention = cfg.MODEL.ATTENTION
    if weights and attention == FLASH and not has_flash():
        attention = "sdpa"  # a saved model answers on any machine; training was refused by check_attention before
    if cfg.MODEL.LORA.RANK or cfg.MODEL.FREEZE:
        path = base_path(cfg, weights)
        model = _load(path, attention, DTYPES[cfg.AMP.frozen_dtype])
        model.base_folder = find_weights(path)[0]
        of_a_copy = Path(path).name == BASE_COPY and weights
        origin = read_base(weights)["path"] if of_a_copy else path
        attach(model, cfg, {"path": origin, "weights_sha256": weights_sha256(model.base_folder)}, adapter=weights)
        return model
    dtype = DTYPES[cfg.AMP.param_dtype]
    if weights is None and cfg.MODEL.INIT == "random":
        from transformers import Qwen2_5_VLForConditionalGeneration

        config = random_config(cfg, tokenizer)
        return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention, dtype=dtype)
    return _load(weights or cfg.MODEL.PATH, attention, dtype)


def base_path(cfg, trained=None):
    """Where the frozen weights are: MODEL.PATH. For a folder of what was trained over them its own copy (`copy_base`)
    comes first, and VLA0_BASE may name another place.

    Raises:
        BadInput: those of a saved folder are nowhere; without one `check_weights` has looked.
    """
    if trained is None:
        return cfg.MODEL.PATH
    copy = Path(trained) / BASE_COPY
    if is_model_folder(copy):
        return str(copy)
    path = os.environ.get(BASE_VARIABLE) or cfg.MODEL.PATH
    try:
        check_source(path)
    except BadInput as error:
        raise BadInput(
            f"{trained} needs the weights it was trained over; {error}. Put them there, or let the environment "
            f"variable {BASE_VARIABLE} name their folder"
        ) from error
    return path


def copy_base(backbone, folder):
    """TRAIN.save_base: the files of the frozen weights go into a model folder, too; linked where that is possible."""
    target = Path(folder) / BASE_COPY
    target.mkdir()
    for path in (p for p in backbone.base_folder.iterdir() if p.suffix in (".json", ".safetensors")):
        try:
            os.link(path.resolve(), target / path.name)  # all checkpoints of a run share one copy
        except OSError:
            shutil.copyfile(path, target / path.name)


def save_weights(backbone, folder):
    """What a training changes, into an existing folder: the model; of a frozen one its adapter and which it is."""
    if is_frozen(backbone):
        save_adapter(backbone, folder)
        return
    with without_progress_bars():
        backbone.save_pretrained(folder, safe_serialization=True)


def _load(path, attention, dtype):
    """The library's model with the weights of a folder, or of a hub name that is cached or will be downloaded."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder, complete = find_weights(path)
    source = folder if complete else path
    if complete:
        check_model_type(folder)
    try:
        with without_progress_bars():
            model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                source, attn_implementation=attention, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"MODEL.PATH: cannot load weights from {source} ({first_line(error)}); give a folder that holds them, "
            "or train from scratch with MODEL.INIT random"
        ) from error
    # The library would fill what is missing with random numbers and say so in a warning.
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise BadInput(f"MODEL.PATH: {source} lacks {len(wrong)} weights of this model, the first is {wrong[0]}")
    return model


def check_weights(cfg):
    """BadInput if MODEL.INIT wants weights and MODEL.PATH has none: found out before anything is started."""
    if cfg.MODEL.INIT == "pretrained":
        check_source(cfg.MODEL.PATH)


def check_source(path):
    """BadInput unless a folder holds weights of this model, or a hub name is in the cache or known to the hub."""
    folder, complete = find_weights(path)
    if complete:
        check_model_type(folder)
        return
    if Path(path).is_dir():
        raise BadInput(f"MODEL.PATH: {path} holds no model, it lacks {missing_files(path)[0]}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:  # asks once; loading would try for half a minute
        get_hf_file_metadata(hf_hub_url(path, "config.json"))
    except Exception as error:  # of the network, the hub, or the name
        raise BadInput(
            f"MODEL.PATH: {path} is neither a folder with weights nor in the cache, nor to be had from the "
            f"Hugging Face hub ({first_line(error)})"
        ) from error


def check_model_type(folder):
    """BadInput where config.json is not this model's: the library would make another one, of default sizes."""
    found = read_json_object(Path(folder) / "config.json").get("model_type")
    if found != MODEL_TYPE:
        raise BadInput(f"MODEL.PATH: {folder}/config.json has model_type {found!r}, this trainer needs {MODEL_TYPE!r}")


def find_weights(path):
    """Where MODEL.PATH lies on this machine: itself, or a hub name's place in the local cache. Asks no hub.

    Returns:
        (folder with its config.json or None, whether weights lie there, too).
    """
    from huggingface_hub import try_to_load_from_cache

    folder = Path(path)
    if kind_of(folder) != "folder":
        try:
            found = try_to_load_from_cache(path, "config.json")
        except ValueError:  # not the form of a hub name
            found = None
        folder = Path(found).parent if isinstance(found, str) else None
    if folder is None or not (folder / "config.json").is_file():
        return None, False
    return folder, is_model_folder(folder)


def random_config(cfg, tokenizer):
    """The library's config object for the sizes in MODEL.TEXT and MODEL.VISION."""
    from transformers import Qwen2_5_VLConfig

    text, vision = cfg.MODEL.TEXT, cfg.MODEL.VISION
    half = text.HIDDEN // text.HEADS // 2
    side = half * 3 // 8  # the 3B model splits 64 frequencies into 16 temporal, 24 vertical, 24 horizontal
    vocab_size = -(-len(tokenizer) // 64) * 64 if cfg.MODEL.VOCAB_CUT else text.VOCAB
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": text.HIDDEN,
            "intermediate_size": text.MLP,
            "num_hidden_layers": text.LAYERS,
            "num_attention_heads": text.HEADS,
            "num_key_value_heads": text.KV_HEADS,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": text.TIED,
            "bos_token_id": None,
            "eos_token_id": token_id(tokenizer, "<|im_end|>"),
            "pad_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.ROPE_THETA,
                "mrope_section": [half - 2 * side, side, side],
            },
        },
        vision_config={
            "depth": vision.LAYERS,
            "hidden_size": vision.HIDDEN,
            "intermediate_size": vision.MLP,
            "num_heads": vision.HEADS,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "window_size": 112,
            "out_hidden_size": text.HIDDEN,
            "fullatt_block_indexes": list(vision.FULL_ATTENTION),
        },
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=text.TIED,
    )


def missing_files(folder):
    """Names of the files that a folder of saved weights lacks, such as a part that was not downloaded."""
    folder, index = Path(folder), Path(folder) / "model.safetensors.index.json"
    if index.is_file():
        places = read_json_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise BadInput(f"{index} has no 'weight_map' that says which file a weight is in")
        weights = sorted(set(places.values()))
    else:
        weights = [] if any(folder.glob("model*.safetensors")) else ["model.safetensors"]
    return [name for name in ("config.json", *weights) if not (folder / name).is_file()]


def is_model_folder(folder):
    """Whether a folder holds saved weights, all of them."""
    return not missing_files(folder)


@contextlib.contextmanager
def without_progress_bars():
    """The library draws a bar for every file it reads or writes; with several ranks they cut the console apart."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def image_processor_settings(cfg):
    """`preprocessor_config.json` for the saved folder: the library's image processor, told not to resize further."""
    pixels = cfg.IMAGE.SIZE * cfg.IMAGE.SIZE * (len(cfg.DATA.VIEWS) if cfg.IMAGE.TILE else 1)
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "min_pixels": pixels,
        "max_pixels": pixels,
    }
