"""What this code does on a GPU, in eight parts and at most eleven minutes on an H100, on made samples.

    python tools/dev/gpu_proof.py --parts training upstream chunk --out gpu_proof.json      # six minutes at most
    python tools/dev/gpu_proof.py --parts batch resume precision bits small --out gpu_proof.json      # five
    python tools/dev/gpu_proof.py --tiny       # all of it at sizes for a CPU, to see that it works

The published model's 3.75 billion parameters, random unless --weights names a folder: 72 GB of memory for `training`
and `upstream`, 20 for the rest. Each part is a process with a time limit of its own, and what one has found is in --out
(a JSON file, added to where it exists) and on the screen at once, whatever becomes of the others. It needs no
simulator, no data and no network, and of Python packages beside torch (with CUDA), transformers, numpy and pillow
these small ones:

    pip install yacs h5py opencv-python-headless tensorboard tqdm matplotlib PyYAML

and for some figures, which say so where they are missing: peft==0.21.0, bitsandbytes==0.50.2, flash-attn; for compiled
ones a C and a C++ compiler. Run it from the repository, which need not be installed: `PYTHONPATH=$PWD`.

Exit code: 0 every part came to its end; 1 one did not; 2 bad input.
"""

import argparse
import functools
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from libs.cli import Parser, cli_errors
from libs.errors import BadInput

# Name: what it measures, where, and seconds that it may take on a GPU, together 11 minutes; and with --tiny.
PARTS = {
    "training": ("training, the published batch", "training.training", 150),
    "upstream": ("the upstream-style step", "training.upstream", 50),
    "chunk": ("one chunk of 8 x 7 integers", "answers.chunk", 140),
    "batch": ("16 rows per call", "answers.batch", 70),
    "resume": ("killed and resumed", "resume.resume", 80),
    "precision": ("other precisions, LoRA, nf4, 8-bit states", "training.precision", 60),
    "bits": ("which bits hold", "answers.bits", 50),
    "small": ("the small policies' recipes", "training.small", 60),
}
ROOT = Path(__file__).resolve().parents[2]
TINY_SECONDS = 600  # a CPU may be shared


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which (default: all)")
    add("--device", help="cuda, cuda:1 ... (default: cuda; with --tiny: cpu)")
    add("--weights", default="", help="folder of the published weights (default: random ones of their sizes)")
    add("--out", type=Path, default=Path("gpu_proof.json"), help="JSON; what it holds of other parts stays")
    add("--tiny", action="store_true", help="models so small that a CPU does it")
    add("--seconds", type=float, help="time limit of each part (default: as --parts says)")
    add("--child", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.device = args.device or ("cpu" if args.tiny else "cuda")
    return args


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.child:
        _run_part(args)
        return
    found = _read(args.out)
    if args.weights and not Path(args.weights).is_dir():
        raise BadInput(f"--weights {args.weights}: no such folder")
    if not args.tiny:
        _check_device(args.device)
    failed = []
    for name in args.parts:
        title, _, seconds = PARTS[name]
        limit = args.seconds or (TINY_SECONDS if args.tiny else seconds)
        print(f"\n{name}: {title}, {limit:.0f} s at most", flush=True)
        part = found["parts"][name] = {"title": title, "limit_s": limit, "figures": []}
        _watch(name, args, limit, part, functools.partial(_write, args.out, found))
        if part["ended"] != "done":
            failed.append(f"{name} {part['ended']}")
        found.update(part.pop("about", {}))
        _write(args.out, found)
    print(f"\n{table(found)}\nwritten: {args.out}")
    if failed:
        print(f"not to its end: {'; '.join(failed)}", file=sys.stderr)
        raise SystemExit(1)


def _check_device(name):
    import torch

    if not torch.cuda.is_available():
        raise BadInput(f"--device {name}: this machine has no GPU that torch can use; --tiny runs on a CPU")


def _read(path):
    """What earlier parts have found."""
    if not path.exists():
        return {"parts": {}}
    try:
        found = json.loads(path.read_text())
        return {**found, "parts": dict(found["parts"])}
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"--out {path} is there and holds something else: name another file") from error


def _write(path, found):
    """The whole file or the one before it, whenever this process is ended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(beside, path)


# ------------------------------------------------------------------------------------------------ a part from outside


def _watch(name, args, limit, part, figure_came):
    """Run a part in a process of its own and take up its figures; part["ended"] says how it ended."""
    options = ["--parts", name, "--device", args.device, "--seconds", str(limit), "--weights", args.weights]
    with tempfile.TemporaryDirectory(prefix="gpu_proof_") as folder:
        command = [sys.executable, __file__, *options, "--child", folder, *["--tiny"] * args.tiny]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # these files, whatever is installed
        process = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines, began = queue.Queue(), time.monotonic()
        threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
        part["ended"], part["s"] = "was interrupted", 0.0  # what --out says meanwhile
        try:
            tail = _take_lines(lines, began + limit, part, figure_came)
            code = process.wait()
            part["ended"] = f"failed with exit code {code}" if code else "done"
            if code:
                part["tail"] = tail
                print("\n".join(tail), file=sys.stderr)
        except TimeoutError:
            part["ended"] = f"was ended after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        part["s"] = round(time.monotonic() - began, 1)
    print(f"  {part['ended']}, {part['s']:.0f} s", flush=True)


def _read_lines(stream, lines):
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _take_lines(lines, deadline, part, figure_came):
    """Figures into the part until the process closes its output; returns the last of its other lines."""
    from tools.dev.proof.ground import MARK

    tail = []
    while True:
        try:
            line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return tail
        if not line.startswith(MARK):
            tail = [*tail[-20:], line]
            continue
        figure = json.loads(line.removeprefix(MARK))
        if "about" in figure:
            part["about"] = figure
            continue
        part["figures"].append(figure)
        print("  " + "  ".join(_row(figure)), flush=True)
        figure_came()


def table(found: Mapping[str, Any]) -> str:
    """Everything that was found, part by part."""
    from tools.dev.benchmarks.samples import columns

    lines = [found.get("about", "")]
    for name, part in found["parts"].items():
        rows = [_row(figure) for figure in part["figures"]]
        lines += ["", f"{name}: {part['title']} ({part['ended']}, {part['s']:.0f} s)"]
        lines += [f"  {line.rstrip()}" for line in columns(rows).splitlines()] if rows else []
    return "\n".join(lines)


def _row(figure):
    value = figure["value"]
    shown = {None: "-", True: "yes", False: "NO"}.get(value, value) if not isinstance(value, float) else f"{value:.3g}"
    aim = f"(aim {figure['aim']})" if figure["aim"] else ""
    return figure["name"], f"{shown} {figure['unit']}".strip(), aim, figure["note"]


# ------------------------------------------------------------------------------------------------ a part from inside


def _run_part(args):
    import torch

    from rv_train.distributed import parse_devices

    device = torch.device(args.device)
    if device.type == "cuda":
        (device,) = parse_devices([device.index or 0], None)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    import transformers

    from tools.dev.proof.ground import MARK, Ground

    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}"
    weights = args.weights or "random weights"
    sizes = "tiny sizes" if args.tiny else weights
    print(MARK + json.dumps({"about": f"{named}, {versions}, {sizes}", "command": shlex.join(sys.argv)}), flush=True)
    (name,) = args.parts
    module, _, function = PARTS[name][1].partition(".")
    ground = Ground(device, args.tiny, args.weights, args.child, args.seconds)
    getattr(import_module(f"tools.dev.proof.{module}"), function)(ground)


if __name__ == "__main__":
    main()
