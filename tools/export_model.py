"""Copy a checkpoint's model folder with its weights in another dtype: what one ships or serves. Of a flow-matching
policy over frozen weights that is the action expert; those stay where they are.

    python tools/export_model.py --model_path checkpoints/RUN --dtype float16 --out exported/RUN
    python tools/export_model.py --model_path checkpoints/RUN --out exported/RUN --results LOG_DIR --push OWNER/NAME

OUT/model holds a model card, README.md, with code that runs the policy by `transformers` alone, the recipe, and with
--results what it solves. transformers 5.x opens the folder, and with --transformers 4.57 that version, too. --push puts
the folder on the Hugging Face hub, whole or not at all; --model_path OWNER/NAME of every command takes it from there.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from libs.cli import Parser, cli_errors
from libs.errors import BadInput
from libs.files import check_new_folder, kind_of
from rv_eval.card_sections import results_section, training_section, use_section
from rv_eval.model_card import model_card
from rv_eval.policy import Policy, model_fingerprint
from rv_eval.publish import Place, check_place, push
from rv_eval.results.summary import Run, gather, show
from rv_train.backbones.lora import is_adapter_folder
from rv_train.backbones.older import VERSIONS, check_known_to_4_57, rewrite_for_4_57
from rv_train.checkpoint import find_model_folder, load_model_folder, save_model_folder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NO_RESULTS = "## What it solves\n\nNo evaluation was given with it."


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--model_path",
        required=True,
        help="run folder (its last checkpoint), step or model folder; or OWNER/NAME[@REVISION] of the hub",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the stored weights")
    parser.add_argument("--out", required=True, type=Path, help="folder to make; its model/ holds the weights")
    parser.add_argument(
        "--transformers", choices=VERSIONS, default="5", help="versions that open it. 5: only 5.x; 4.57: that one, too"
    )
    parser.add_argument("--results", nargs="+", type=Path, metavar="LOG_DIR", help="of its evaluation, for the card")
    parser.add_argument("--push", metavar="OWNER/NAME", help="put it on the Hugging Face hub, in place of an older one")
    parser.add_argument("--private", action="store_true", help="--push: seen by nobody else")
    args = parser.parse_args(argv)
    if args.private and not args.push:
        raise BadInput("--private says how --push is to be done: give both")
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
    results = read_results(args.results, folder) if args.results else None
    place = check_place(args.push, args.private) if args.push else None
    export(folder, target, args.dtype, args.transformers, results, args.push)
    if place:
        push_there(target, place, args.private)


def export(
    folder: Path, target: Path, dtype: str, form: str, results: tuple[Run, str] | None, name: str | None
) -> None:
    """Write a model folder anew, at its end in one move, and say so.

    dtype: of its weights. form: of VERSIONS. results: as `read_results` gives them. name: what it will be called on the
    hub, None: it stays here.
    """
    model, cfg, extras = load_model_folder(folder)
    if form == "4.57":
        if not model.INTEGERS:
            raise BadInput(f"{folder} has an action expert, which no transformers opens: leave out --transformers")
        check_known_to_4_57(model.family.model_type)
    policy = Policy(model, extras["encoder"], cfg, extras["data_info"], folder)
    model.to(DTYPES[dtype])
    beside = target.with_name("model.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    save_model_folder(beside, model, cfg, extras["action_stats"], extras["data_info"])
    if form == "4.57":
        rewrite_for_4_57(beside)
    versions, address = VERSIONS[form], name or "."
    sections = [training_section(cfg, extras["data_info"], folder)]
    if results:
        run, measured = results
        sections.append(results_section(run, told_weights(measured, beside, dtype)))
    elif name:
        sections.append(NO_RESULTS)
    sections.append(use_section(policy, address))
    (beside / "README.md").write_text(model_card(policy, versions, address, sections))
    beside.rename(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}  {size / 1e6:.1f} MB, weights in {dtype}; opens with transformers {versions}")


def read_results(log_dirs: Sequence[Path], folder: Path) -> tuple[Run, str]:
    """The evaluation in --log_dirs, and the sha256 of the weights that were measured; BadInput unless it is one, and of
    the model in a folder."""
    run = gather(log_dirs)
    if not run.episodes:
        raise BadInput(f"--results {log_dirs[0]}: no episode has ended yet")
    measured, found = run.episodes[0].get("model_fingerprint"), model_fingerprint(folder)
    own = found["model_fingerprint"]
    if measured != own:
        raise BadInput(
            f"--results {log_dirs[0]} are of a model with fingerprint {show(measured)}, --model_path is {show(own)}: "
            "evaluate this one"
        )
    return run, found["weights_sha256"]


def told_weights(measured: str, exported: Path, dtype: str) -> str:
    """Whether the weights in `exported` are those that were measured (their sha256), in words."""
    if model_fingerprint(exported)["weights_sha256"] == measured:
        return "They were measured with these weights."
    return f"They were measured before the weights were stored as {dtype}."


def push_there(folder: Path, place: Place, private: bool) -> None:
    """Push, and say what went where."""
    try:
        address = push(folder, place)
    except BadInput as error:
        again = f"hf upload {place.name} {folder} .{' --private' if private else ''}"
        raise BadInput(f"{error}; nothing was pushed. {folder} is whole: `{again}` pushes it, too") from error
    files = [path for path in folder.rglob("*") if path.is_file()]
    size, seen = sum(path.stat().st_size for path in files), "private" if place.private else "public"
    print(f"pushed   {len(files)} files, {size / 1e6:.1f} MB, as {place.name} ({seen}): {address}")


if __name__ == "__main__":
    main()
