"""Files that are there and hold something else: edited by hand, of another program, cut off. Exit code 2 and one line
that names the file."""

import importlib
import json
import shutil

import pytest
import torch
import yaml

from rv_train.checkpoint import _describe
from rv_train.data.stats import FILE_NAME
from tests.demo_files import write_synthetic_demo_file
from tests.manifests import build
from tests.refusal import as_on_page
from tests.rv_eval.records import record, write
from tests.tiny import ROOT, lora_opts, make_tiny_base, make_tiny_checkpoint

TRAIN = f"rv_train.train --cfg {ROOT / 'configs/tiny.yaml'} --nproc 1 DATA.FILES DEMOS EXP.DIR"
GARBAGE = bytes(range(256)) * 8
NO_OBJECT = b'["a list"]'


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """{word: path} of what commands name."""
    folder = tmp_path_factory.mktemp("good")
    demo = folder / "demos" / "cube_demo.hdf5"
    write_synthetic_demo_file(demo, 2, 8, 64, seed=0)
    base = make_tiny_base(folder)
    return {
        "DEMOS": demo.parent,
        "MANIFEST": build(folder / "manifest", demo),
        "LOGS": write(folder / "logs" / "results.jsonl", [record(0, 0)]),
        "RUN": make_tiny_checkpoint(folder),
        "BASE": base,
        "ADAPTER": make_tiny_checkpoint(folder / "adapter", **lora_opts(base)),
    }


def refused(command, good, capsys):
    """The one line that a command ends with."""
    name, *arguments = [str(good.get(word, word)) for word in command.split()]
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(arguments)
    err = capsys.readouterr().err
    assert end.value.code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return as_on_page(err)


def edited(path, change):
    """A JSON or YAML file with another content: `change` returns it, or changes it in place."""
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    tree = load(path.read_text())
    path.write_text(dump(change(tree) or tree))


MODEL_FILES = {
    "config.json": (GARBAGE, b"", NO_OBJECT, b"{}", b'{"model_type": "llama"}', b'{"model_type": 7}'),
    "model.safetensors": (GARBAGE, b""),
    "tokenizer.json": (GARBAGE, b"", NO_OBJECT, b"{}"),
    "tokenizer_config.json": (GARBAGE, b"", NO_OBJECT),
    FILE_NAME: (GARBAGE, b"", NO_OBJECT, b"{}", b'{"min": 1, "max": 2}', b'{"min": ["a"], "max": [1]}'),
    "data_info.json": (GARBAGE, b"", NO_OBJECT, b'{"resolution": "large"}', b'{"resolution": [1]}', b'{"render": 3}'),
    "vla_config.yaml": (GARBAGE, b"a: [", NO_OBJECT, b"7", b"MODEL: 3", b"ACTION: {DIM: seven}", b"EXP: {IDS: x}"),
}
ADAPTER_FILES = {
    "base.json": (GARBAGE, b"", NO_OBJECT, b"{}", b'{"path": 1, "weights_sha256": 2}'),
    "adapter_model.safetensors": (GARBAGE, b""),
}


@pytest.mark.parametrize(
    ("model", "name", "content"),
    [
        *[("RUN", name, content) for name, contents in MODEL_FILES.items() for content in contents],
        *[("ADAPTER", name, content) for name, contents in ADAPTER_FILES.items() for content in contents],
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) and value[:1] != b"\0" else None,
)
def test_a_model_folder_with_another_file_in_it(model, name, content, good, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = shutil.copytree(good[model], tmp_path / "run", symlinks=True)
    (run / "last/model" / name).write_bytes(content)
    command = f"tools.diagnose --model_path {run} --data DEMOS --out {tmp_path / 'out'}"
    assert str(run) in refused(command, good, capsys)


def test_weights_of_another_model(good, tmp_path, capsys, monkeypatch):
    """MODEL.PATH names a folder that the library can read, and something else than a Qwen2.5-VL."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other = shutil.copytree(good["BASE"], tmp_path / "other")
    edited(other / "config.json", lambda tree: tree.update(model_type="llama"))
    command = f"{TRAIN} {tmp_path} MODEL.INIT pretrained MODEL.VOCAB_CUT 0 MODEL.TOKENIZER BASE MODEL.PATH {other}"
    assert f"{other}/config.json has model_type 'llama'" in refused(command, good, capsys)


def test_a_hub_name_that_is_in_no_cache(good, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = f"{TRAIN} {tmp_path} MODEL.INIT pretrained MODEL.VOCAB_CUT 0 MODEL.PATH nobody/nothing"
    assert "MODEL.PATH: nobody/nothing is neither a folder with weights nor in the cache" in refused(
        command, good, capsys
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest_info.json", GARBAGE),
        ("manifest_info.json", NO_OBJECT),
        ("manifest_info.json", b'{"horizon": "two"}'),
        ("manifest_info.json", b'{"num_bins": null}'),
        ("manifest.jsonl", b'{"H": 2}\n'),
        ("manifest.jsonl", b"[" * 100_000),
        (FILE_NAME, NO_OBJECT),
    ],
)
def test_a_manifest_with_another_file_beside_it(name, content, good, tmp_path, capsys):
    manifest = shutil.copytree(good["MANIFEST"], tmp_path / "manifest")
    (manifest / name).write_bytes(content)
    command = f"{TRAIN} {tmp_path} DATA.SOURCE manifest ACTION.HORIZON 2 ACTION.NUM_BINS 100 DATA.FILES {manifest}"
    assert str(manifest) in refused(command, good, capsys)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("suite"),
        lambda tree: tree.update(steps="many"),
        lambda tree: tree.update(video=7),
        lambda tree: tree.update(n_action_steps={"a": 1}),
        lambda tree: [tree],
    ],
)
def test_results_edited_by_hand(change, good, tmp_path, capsys):
    tree = record(0, 0)
    found = change(tree)
    (tmp_path / "results.jsonl").write_text(json.dumps(found if isinstance(found, list) else tree) + "\n")
    said = refused(f"tools.summarize_eval {tmp_path}", good, capsys)
    assert f"{tmp_path}/results.jsonl line 1 is not a result" in said


@pytest.mark.parametrize("content", [GARBAGE, b"", "a list", "no step"])
def test_a_checkpoint_with_another_trainer_state(content, good, tmp_path, capsys):
    """Its marker says that it is whole: somebody else's program wrote it so."""
    step = tmp_path / "tiny/step_00000002"
    shutil.copytree(good["RUN"] / "last/model", step / "model")
    state = {"a list": [1, 2], "no step": {"epoch": 3}}
    if isinstance(content, bytes):
        (step / "trainer.pt").write_bytes(content)
    else:
        torch.save(state[content], step / "trainer.pt")
    (step / "complete").write_text(json.dumps(_describe(step)))
    assert f"{step}/trainer.pt" in refused(f"{TRAIN} {tmp_path} --resume", good, capsys)
    if content != "no step":
        shutil.copytree(tmp_path / "tiny", tmp_path / "other")
        assert "trainer.pt" in refused(f"tools.compare {tmp_path / 'tiny'} {tmp_path / 'other'}", good, capsys)


def test_a_record_of_a_build_that_is_damaged(good, tmp_path, capsys):
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts/settings.json").write_bytes(GARBAGE)
    command = f"tools.build_manifest DEMOS --out {tmp_path} --workers 1"
    assert f"{tmp_path}/.parts/settings.json is not a text file" in refused(command, good, capsys)
