"""The command `vla0`: `vla0 train --cfg configs/tiny.yaml` is `python -m rv_train.train --cfg configs/tiny.yaml`."""

import difflib
import importlib
import sys

COMMANDS = {
    "train": ("rv_train.train", "train a policy, or resume a run"),
    "eval": ("tools.eval_libero", "play a policy in LIBERO and count successes"),
    "eval-env": ("tools.eval_env", "the same in another simulator"),
    "eval-reading": ("tools.eval_reading", "ask for other goals in the same scene: does it read?"),
    "eval-delay": ("tools.eval_delay", "what late answers cost"),
    "summarize": ("tools.summarize_eval", "an evaluation's results as a table and a report"),
    "compare": ("tools.compare", "how two evaluations, runs or models differ"),
    "serve": ("tools.serve_policy", "a policy behind a websocket"),
    "robot": ("tools.run_robot", "let a policy drive a robot"),
    "collect": ("tools.collect_demos", "demonstrations of LIBERO's tasks by scripted experts"),
    "collect-stack": ("tools.collect_stack", "demonstrations of cube stacking"),
    "inspect": ("tools.inspect_demos", "what a data set holds, and whether it is whole"),
    "stats": ("tools.compute_stats", "the range of the actions, in a file"),
    "diagnose": ("tools.diagnose", "what a policy takes from its inputs"),
    "regenerate": ("tools.regenerate_libero", "LIBERO's own demonstrations, rendered again"),
    "manifest": ("tools.build_manifest", "demonstrations as lines of text and picture files"),
    "peek-manifest": ("tools.peek_manifest", "look into a manifest"),
    "export-lerobot": ("tools.export_lerobot", "demonstrations as a LeRobot data set"),
    "export": ("tools.export_model", "a checkpoint as a model folder to pass on"),
    "import-vla0": ("tools.import_vla0", "the published weights as a model folder"),
    "collect-env": ("tools.collect_env", "demonstrations of a simulator that lives elsewhere"),
    "merge-lora": ("tools.merge_lora", "one model of weights and adapter"),
}


def main() -> None:
    """Run the command that the first argument names; the rest is its own."""
    name, rest = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name in ("", "-h", "--help"):
        print(_usage())
        raise SystemExit(0 if name else 2)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        raise SystemExit(2)
    module, _ = COMMANDS[name]
    sys.argv = [f"vla0 {name}", *rest]
    importlib.import_module(module).main()


def _usage():
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "usage: vla0 COMMAND ...      (vla0 COMMAND --help: its options)\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
