"""Time this code beside a reference, in turns, on the same work; check that both do the same.

    python tools/dev/benchmark.py data --data DEMOS.hdf5 --out FILE.json
    python tools/dev/benchmark.py host --out FILE.json
    python tools/dev/benchmark.py train --cfg configs/vla0.yaml --device cuda --apart --out FILE.json
    python tools/dev/benchmark.py decode --batch 4 --model_path RUN --data DEMOS.hdf5 --out FILE.json
    python tools/dev/benchmark.py quantize --batch 4 --weights bfloat16 int8 --device cuda --out FILE.json
    python tools/dev/benchmark.py backbone --batch 8 --device cuda --sizes 7b --out FILE.json
    python tools/dev/benchmark.py rollout --num_envs 4 --render standard --resolution 256 --out FILE.json

Exit code: 0 measured; 1 the two did not agree, or something failed on the way; 2 bad input.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from libs.cli import Parser, cli_errors
from libs.files import check_new_file
from tools.dev.benchmarks import backbone, data, decode, host, quantize, rollout, train

BENCHMARKS = {
    "backbone": backbone,
    "data": data,
    "host": host,
    "train": train,
    "decode": decode,
    "quantize": quantize,
    "rollout": rollout,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    kinds = parser.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        kind = kinds.add_parser(
            name,
            help=(module.__doc__ or "").splitlines()[0],
            description=module.__doc__,
        )
        module.add_arguments(kind)
        kind.add_argument("--out", type=Path, help="write everything that was measured here (JSON)")
    return parser.parse_args(argv)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out:
        check_new_file(args.out)
    command = f"python tools/dev/benchmark.py {shlex.join(sys.argv[1:] if argv is None else argv)}"
    began, load = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), os.getloadavg()
    result = BENCHMARKS[args.benchmark].measure(args, lambda line: print(line, flush=True))
    print(f"\n{BENCHMARKS[args.benchmark].table(result)}")
    if args.out:
        header = {"command": command, "began": began, "load_average_before": load[0], **describe_machine()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**header, **result}, indent=1) + "\n")
        print(f"written: {args.out}")
    if result["problems"]:
        print("\n".join(["NOT the same:", *result["problems"]]), file=sys.stderr)
        raise SystemExit(1)


def describe_machine() -> dict:
    """What a timing depends on: {"machine": ..., "versions": ...}."""
    import torch

    from rv_eval.results.records import SIMULATOR_PACKAGES
    from rv_train.provenance import versions

    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpus,
    }
    return {"machine": machine, "versions": versions(SIMULATOR_PACKAGES)}


if __name__ == "__main__":
    main()
