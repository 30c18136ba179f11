"""Make a model folder of ours out of a run of the original VLA-0, such as its published weights.

    python tools/import_vla0.py runs/vla0 --out checkpoints/vla0_published
    python tools/eval_libero.py --model_path checkpoints/vla0_published --task_suite all --num_envs 8

RUN holds `model_last/`, a Hugging Face folder in whatever form its version of transformers wrote, and
`dataset_stats.pkl`, of which nothing is run. Weights are linked, or copied where that cannot be, byte by byte; the
recipe says what they were trained with (default: the published one, which also says how chunks are executed) and KEY
VALUE pairs change it. In the end the folder is opened, so it takes the memory of the weights.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from libs.cli import Parser, cli_errors
from libs.config_tree import pair
from libs.errors import BadInput
from libs.files import check_new_folder, kind_of, link_or_copy
from rv_train.backbones import family_of
from rv_train.backbones.tokenizer import read_tokenizer, with_template
from rv_train.checkpoint import load_model_folder, save_beside_weights
from rv_train.config import SECTIONS, load_cfg
from rv_train.original_run import OriginalRun, check_original, find_original, original_stats
from rv_train.policies import build_encoder

if TYPE_CHECKING:
    from rv_train.policies.base import Policy

RECIPE = Path(__file__).resolve().parent.parent / "configs/vla0.yaml"
RENDER, RESOLUTION = "standard", 256  # of the pictures in physical-intelligence/libero
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of the original, or its model_last")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="model folder to make")
    parser.add_argument("--cfg", default=RECIPE, type=Path, metavar="FILE", help="recipe that it was trained with")
    parser.add_pairs(SECTIONS, help="what differs from the recipe, such as ACTION.HORIZON 8")
    return parser.parse_args(argv)


def write_folder(folder: Path, original: OriginalRun, cfg: CfgNode) -> dict[str, Any]:
    """The whole model folder; the config.json it came with."""
    family, stats = family_of(cfg), original_stats(original.stats, cfg.ACTION.DIM)
    tokenizer = with_template(read_tokenizer(original.model), family)
    prompt = build_encoder(cfg, stats, tokenizer).prompt
    config = check_original(original.model, family, prompt.pictures)
    folder.mkdir(parents=True)
    for path in (path for pattern in WEIGHTS for path in original.model.glob(pattern)):
        link_or_copy(path, folder / path.name)
    info = {
        "render": RENDER,
        "resolution": RESOLUTION,
        "cameras": {view: [RESOLUTION, RESOLUTION] for view in cfg.DATA.VIEWS},
        "fingerprint": f"imported from {original.model.resolve().parent.name}",
        "files": [],
    }
    save_beside_weights(folder, family, prompt, cfg, stats, info)
    return config


def report(
    original: OriginalRun, config: Mapping[str, Any], model: "Policy", cfg: CfgNode, stats: Mapping[str, Any]
) -> list[str]:
    """What was found, as lines of text."""
    sizes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    height, width = pair(cfg.IMAGE.SIZE)
    ranges = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in zip(stats["min"], stats["max"], strict=True))
    return [
        f"{original.model}  {config['model_type']}, {sum(p.numel() for p in model.parameters()):,} parameters in "
        f"{', '.join(sizes)}, written by transformers {config.get('transformers_version', 'of no known version')}",
        f"{original.stats}  actions of {cfg.ACTION.DIM} numbers: {ranges}",
        f"recipe  {len(cfg.DATA.VIEWS)} views of {height} x {width}, {cfg.ACTION.HORIZON} actions in integers 0 to "
        f"{cfg.ACTION.NUM_BINS}; executed {cfg.EVAL.ACTION_HORIZON or cfg.ACTION.HORIZON} at a time, "
        f"{cfg.EVAL.ENSEMBLE_PREDICTION} chunks averaged",
    ]


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if kind_of(args.out):
        raise BadInput(f"{args.out} exists already")
    check_new_folder(args.out)
    cfg, original = load_cfg(args.cfg, args.opts), find_original(args.run)
    beside = args.out.with_name(f"{args.out.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        config = write_folder(beside, original, cfg)
        stored = config.get("dtype") or config.get("torch_dtype")
        as_stored = ["AMP.param_dtype", stored] if stored == "bfloat16" else []
        model, cfg, extras = load_model_folder(beside, opts=as_stored)
        beside.rename(args.out)
    except BadInput as error:  # what it names, the user knows by another name
        raise BadInput(str(error).replace(str(beside.resolve()), str(original.model))) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print("\n".join(report(original, config, model, cfg, extras["action_stats"])))
    print(args.out)


if __name__ == "__main__":
    main()
