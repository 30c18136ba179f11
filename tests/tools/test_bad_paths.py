"""Every path that a command line takes, given as users give them wrongly: exit code 2 and one line that names it."""

import importlib
import json

import pytest

from tests.demo_files import write_synthetic_demo_file
from tests.manifests import build
from tests.original_runs import make_original_run
from tests.refusal import as_on_page
from tests.rv_eval.records import record, write
from tests.tiny import ROOT, make_tiny_checkpoint

TINY = str(ROOT / "configs/tiny.yaml")

# What stands where a command reads a file ("FILE"), a file or a folder ("ANY"), a folder ("FOLDER"), or is to write one
# or the other ("NEW_FILE", "NEW_FOLDER").
BAD = {
    "FILE": ("none", "folder", "below", "long", "zero", "loop", "garbage", "blank"),
    "ANY": ("none", "folder", "below", "long", "zero", "loop", "garbage", "blank"),
    "RECIPE": ("none", "folder", "below", "long", "zero", "loop", "garbage"),  # an empty one is all defaults
    "FOLDER": ("none", "folder", "below", "long", "zero", "loop", "garbage"),
    "NEW_FILE": ("folder", "below", "long", "zero", "loop"),
    "NEW_FOLDER": ("garbage", "below", "long", "zero", "loop"),
}

TRAIN = f"rv_train.train --cfg {TINY} --nproc 1"
ON_DEMOS = f"{TRAIN} DATA.FILES [DEMOS] EXP.DIR OUT"
ON_MANIFEST = f"{TRAIN} DATA.SOURCE manifest ACTION.HORIZON 2 ACTION.NUM_BINS 100 EXP.DIR OUT"
EVAL = "tools.eval_libero --task_suite libero_object --task_ids 0 --episodes 1"
DELAY = "tools.eval_delay --task_suite libero_object --task_ids 0 --episodes 1"
ROBOT = "tools.run_robot --rate 5 --instruction go --yes"
COMMANDS = (
    "rv_train.train --cfg RECIPE --dry_run",
    "rv_train.train --cfg RECIPE",
    f"{TRAIN} EXP.DIR OUT DATA.FILES ANY",
    f"{TRAIN} EXP.DIR NEW_FOLDER DATA.FILES [DEMOS]",
    f"{TRAIN} EXP.DIR NEW_FOLDER DATA.FILES [DEMOS] --resume",
    f"{ON_DEMOS} DATA.KEY_MAP FILE.json",
    f"{ON_DEMOS} DATA.STATS ANY",
    f"{ON_DEMOS} DATA.STATS FILE.npz",
    f"{ON_DEMOS} MODEL.INIT pretrained MODEL.VOCAB_CUT 0 MODEL.PATH FOLDER",
    f"{ON_DEMOS} MODEL.TOKENIZER FOLDER",
    f"{ON_DEMOS} MODEL.TOKENIZER FOLDER --sanity_forward",
    f"{ON_MANIFEST} DATA.STATS STATS DATA.FILES ANY",
    f"{ON_MANIFEST} DATA.FILES [MANIFEST] DATA.STATS ANY",
    "tools.dev.benchmark data --data FILE",
    "tools.dev.benchmark data --data DEMO --num_samples 1 --rounds 1 --folder NEW_FOLDER",
    "tools.dev.benchmark host --cfg RECIPE",
    "tools.dev.benchmark host --out NEW_FILE",
    "tools.dev.benchmark train --cfg RECIPE",
    "tools.dev.benchmark decode --model_path FOLDER",
    "tools.dev.benchmark decode --model_path RUN --data FILE",
    "tools.build_manifest ANY --out OUT",
    "tools.build_manifest DEMOS --out NEW_FOLDER --workers 1",
    "tools.build_manifest DEMOS --out OUT --key_map FILE.json",
    "tools.build_manifest DEMOS --out OUT --stats ANY",
    "tools.dev.check_experts --task_suite libero_object --out NEW_FILE",
    "tools.collect_demos --task_suite libero_object --task_ids 0 --num_demos 1 --out NEW_FOLDER",
    "tools.collect_stack --num_demos 1 --out NEW_FOLDER",
    "tools.compare LOGS ANY",
    "tools.compare ANY LOGS",
    "tools.compare FOLDER FOLDER",
    "tools.compute_stats ANY --out OUT",
    "tools.compute_stats DEMOS --out NEW_FILE",
    "tools.compute_stats DEMOS --out OUT --key_map FILE.json",
    "tools.diagnose --model_path FOLDER --data DEMOS --out OUT",
    "tools.diagnose --model_path RUN --data ANY --out OUT",
    "tools.diagnose --model_path RUN --data DEMOS --out NEW_FOLDER",
    "tools.diagnose --model_path RUN --data DEMOS --out OUT --key_map FILE.json",
    "tools.diagnose --overfit 1 --cfg RECIPE --data DEMOS --out OUT",
    f"{DELAY} --model_path FOLDER",
    f"{DELAY} --model_path RUN --log_dir NEW_FOLDER",
    f"{EVAL} --model_path FOLDER",
    f"{EVAL} --model_path RUN --log_dir NEW_FOLDER",
    f"{EVAL} --model_path ws://127.0.0.1:1 --api_key_file FILE",
    "tools.eval_stack --model_path FOLDER",
    "tools.eval_stack --model_path RUN --log_dir NEW_FOLDER",
    "tools.export_lerobot ANY --out OUT",
    "tools.export_lerobot DEMOS --fps 20 --out NEW_FOLDER",
    "tools.export_lerobot DEMOS --out OUT --key_map FILE.json",
    "tools.export_model --model_path FOLDER --out OUT",
    "tools.export_model --model_path RUN --out NEW_FOLDER",
    "tools.dev.fuzz_server --model_path FOLDER",
    "tools.dev.fuzz_server --url ws://127.0.0.1:1 --api_key_file FILE",
    "tools.import_vla0 FOLDER --out OUT",
    "tools.import_vla0 ORIGINAL --out OUT --cfg RECIPE",
    f"tools.import_vla0 ORIGINAL --out NEW_FOLDER --cfg {TINY}",
    "tools.inspect_demos FILE",
    "tools.inspect_demos DEMO --key_map FILE.json",
    "tools.inspect_demos DEMO --video NEW_FILE.mp4",
    "tools.merge_lora --model_path FOLDER --out OUT",
    "tools.merge_lora --model_path RUN --out NEW_FOLDER",
    "tools.peek_manifest ANY",
    "tools.peek_manifest MANIFEST --stats ANY",
    "tools.regenerate_libero ANY --out OUT",
    "tools.regenerate_libero DEMOS --out NEW_FOLDER",
    f"{ROBOT} --model_path FOLDER --robot ROBOT.py --limits LIMITS",
    f"{ROBOT} --model_path RUN --robot ROBOT.py --limits FILE.json",
    f"{ROBOT} --model_path RUN --robot FILE.py --limits LIMITS",
    f"{ROBOT} --model_path RUN --robot ROBOT.py --limits LIMITS --log NEW_FILE.hdf5",
    "tools.serve_policy --model_path FOLDER --port 0",
    "tools.serve_policy --model_path RUN --port 0 --api_key_file FILE",
    "tools.slurm.run_folder RECIPE",
    "tools.summarize_eval ANY",
    "tools.summarize_eval LOGS --out NEW_FILE",
    "tools.summarize_eval LOGS --no_html --json NEW_FILE",
    "tools.compare LOGS LOGS --json NEW_FILE",
    "tools.compare LOGS LOGS --out NEW_FILE",
    "rv_train.train --resume FOLDER",
    "tools.dev.torture_eval --model_path FOLDER",
    "tools.dev.torture_eval --model_path RUN --out NEW_FOLDER",
    "tools.dev.torture_resume --out NEW_FOLDER",
)

ASK_LIBERO = (  # before they come to the path
    f"{DELAY} --model_path FOLDER",
    f"{EVAL} --model_path FOLDER",
    f"{EVAL} --model_path ws://127.0.0.1:1 --api_key_file FILE",
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """What the other arguments name: {word: path}."""
    folder = tmp_path_factory.mktemp("good")
    demo = folder / "demos" / "cube_demo.hdf5"
    write_synthetic_demo_file(demo, 2, 4, 64, seed=0)
    robot, limits = folder / "robot.py", folder / "limits.json"
    robot.write_text("class Robot:\n    observe = act = hold = print\n\n\nmake_robot = Robot\n")
    limits.write_text(
        json.dumps({"low": [-1] * 7, "high": [1] * 7, "max_change": None, "position": None, "rotations": None})
    )
    run = make_tiny_checkpoint(folder)
    return {
        "DEMO": demo,
        "ROBOT.py": robot,
        "LIMITS": limits,
        "DEMOS": demo.parent,
        "MANIFEST": build(folder / "manifest", demo),
        "STATS": folder / "manifest" / "action_stats.json",
        "LOGS": write(folder / "logs" / "results.jsonl", [record(0, 0)]),
        "RUN": run,
        "ORIGINAL": make_original_run(folder / "original", run / "last/model"),
    }


def make_bad(kind, folder, suffix=""):
    """The path of something that is none of what is wanted."""
    path = folder / f"bad{suffix}"
    if kind == "folder":
        path.mkdir()
    elif kind == "below":
        (folder / "file").write_text("text")
        path = folder / "file" / path.name
    elif kind == "long":
        path = folder / ("x" * 300 + suffix)
    elif kind == "zero":
        path = folder / f"a\0b{suffix}"
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "garbage":
        path.write_bytes(bytes(range(256)) * 8)
    elif kind == "blank":
        path.write_bytes(b"")
    return path


CASES = [
    pytest.param(
        command,
        word,
        kind,
        id=f"{command.split()[0]}-{number}-{kind}",
        marks=[pytest.mark.libero] if command in ASK_LIBERO else [],
    )
    for number, command in enumerate(COMMANDS)
    for word in [next(word for word in command.split() if word.partition(".")[0] in BAD)]
    for kind in BAD[word.partition(".")[0]]
]


@pytest.mark.parametrize(("command", "word", "kind"), CASES)
def test_a_path_that_cannot_be_used_is_one_line(command, word, kind, good, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    bad = make_bad(kind, tmp_path, word[len(word.partition(".")[0]) :])
    words = {name: str(path) for name, path in {**good, "OUT": out, word: bad}.items()}
    words |= {f"[{name}]": f"[{str(path)!r}]" for name, path in good.items()}
    name, *arguments = [words.get(part, part) for part in command.split()]
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(arguments)
    err = capsys.readouterr().err
    assert end.value.code == 2, err
    assert as_on_page(err).count("\n") == 1
    assert str(bad).replace("\0", "\\x00")[:200] in err
