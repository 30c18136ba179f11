"""Copy a checkpoint's model folder with its weights in another dtype: what one ships or serves. Of a flow-matching
policy over frozen weights that is the action expert; those stay where they are.

    python tools/export_model.py --model_path checkpoints/RUN --dtype float16 --out exported/RUN

OUT/model holds a model card, README.md, with code that runs the policy by `transformers` alone. transformers 5.x opens
the folder, and with --transformers 4.57 that version, too.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_folder, kind_of
from rv_eval.model_card import model_card
from rv_eval.policy import Policy
from rv_train.backbones.lora import is_adapter_folder
from rv_train.backbones.older import VERSIONS, check_known_to_4_57, rewrite_for_4_57
from rv_train.checkpoint import find_model_folder, load_model_folder, save_model_folder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--model_path", required=True, help="run folder (its last checkpoint), step folder or model folder"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the stored weights")
    parser.add_argument("--out", required=True, type=Path, help="folder to make; its model/ holds the weights")
    parser.add_argument(
        "--transformers", choices=VERSIONS, default="5", help="versions that open it. 5: only 5.x; 4.57: that one, too"
    )
    args = parser.parse_args(argv)
    target = args.out / "model"
    if kind_of(target):
        raise BadInput(f"{target} exists already")
    check_new_folder(args.out)
    folder = find_model_folder(args.model_path)
    if is_adapter_folder(folder):
        raise BadInput(
            f"{folder} is an adapter: tools/merge_lora.py --model_path {args.model_path} --out {args.out} "
            f"--dtype {args.dtype} makes an ordinary model of it and the weights below it"
        )
    model, cfg, extras = load_model_folder(folder)
    if args.transformers == "4.57":
        if not model.INTEGERS:
            raise BadInput(f"{folder} has an action expert, which no transformers opens: leave out --transformers")
        check_known_to_4_57(model.family.model_type)
    policy = Policy(model, extras["encoder"], cfg, extras["data_info"], folder)
    model.to(DTYPES[args.dtype])
    beside = args.out / "model.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    save_model_folder(beside, model, cfg, extras["action_stats"], extras["data_info"])
    if args.transformers == "4.57":
        rewrite_for_4_57(beside)
    versions = VERSIONS[args.transformers]
    (beside / "README.md").write_text(model_card(policy, versions))
    beside.rename(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}  {size / 1e6:.1f} MB, weights in {args.dtype}; opens with transformers {versions}")


if __name__ == "__main__":
    main()
