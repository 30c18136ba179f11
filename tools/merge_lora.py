"""Merge a LoRA checkpoint into the weights it was trained over: an ordinary model, which needs neither of them.

    python tools/merge_lora.py --model_path checkpoints/RUN --out merged/RUN

It answers as the checkpoint does, to rounding. The sum is made in float32, in memory: four bytes per parameter. Of a
checkpoint that was trained over 4-bit weights the adapter is added to the weights as they are at MODEL.PATH, not to
their 4-bit form, which is a slightly different model.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from libs.cli import Parser, cli_errors
from libs.cli.old import say
from libs.config_tree import to_dict
from libs.errors import BadInput
from libs.files import check_new_folder, kind_of
from rv_train.backbones.lora import is_adapter_folder, merge, read_base, weights_sha256
from rv_train.checkpoint import find_model_folder, load_model_folder, read_model_cfg, save_model_folder
from rv_train.config import cfg_from_dict

ORIGIN = "merged_from.json"  # in the model folder: what was added to what


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--model_path",
        help="run folder (its last checkpoint), step or model folder of a LoRA training; or OWNER/NAME of the hub",
    )
    parser.add_argument("named", nargs="?", help=argparse.SUPPRESS)  # of the release before
    parser.add_argument("--out", required=True, type=Path, help="folder to make; its model/ holds the weights")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="as stored")
    args = parser.parse_args(argv)
    if args.named:
        say(args.named, f"--model_path {args.named}")
    if bool(args.named) == bool(args.model_path):
        parser.error("give --model_path, once")
    args.model_path = args.model_path or args.named
    target = args.out / "model"
    if kind_of(target):
        raise BadInput(f"{target} exists already")
    check_new_folder(args.out)
    folder = find_model_folder(args.model_path)
    if not is_adapter_folder(folder):
        raise BadInput(f"{folder} is no adapter: there is nothing to merge")
    quantized = read_model_cfg(folder).MODEL.QUANTIZE
    exact = ["MODEL.QUANTIZE", "none", "AMP.frozen_dtype", "float32", "AMP.param_dtype", "float32"]
    model, cfg, extras = load_model_folder(folder, opts=exact)
    merge(model.backbone)
    model.backbone.to(getattr(torch, args.dtype))
    origin = {"adapter": str(folder), "adapter_sha256": weights_sha256(folder), "base": read_base(folder)}

    beside = args.out / "model.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    unfrozen = ["MODEL.LORA.RANK", 0, "MODEL.FREEZE", False, "TRAIN.save_base", False]
    ordinary = cfg_from_dict(to_dict(cfg), str(folder), unfrozen)
    save_model_folder(beside, model, ordinary, extras["action_stats"], extras["data_info"])
    (beside / ORIGIN).write_text(json.dumps({**origin, "quantize": quantized}, indent=1) + "\n")
    beside.rename(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}  {size / 1e6:.1f} MB, weights in {args.dtype}")
    if quantized != "none":
        print(f"trained over {quantized} weights, merged with the unquantized ones: it answers slightly differently")


if __name__ == "__main__":
    main()
