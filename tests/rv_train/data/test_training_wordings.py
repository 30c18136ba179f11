"""DATA.INSTRUCTIONS: one of several wordings is drawn for every sample, from the sample's own generator."""

import json
import shutil
from collections import Counter

import pytest
import torch

from rv_train import train
from rv_train.data.load import load_data
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.training_set import TrainingSet
from rv_train.difference import compare_runs
from rv_train.policies import build_encoder
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT, tiny_cfg, tiny_opts

WORDINGS = {"pick up the stripe": ["grab the stripe", "would you take the stripe"], "another": ["a second"]}


@pytest.fixture
def demos(tmp_path):
    write_synthetic_demo_file(tmp_path / "demos/a_demo.hdf5", 4, 6, 64, seed=0)
    write_synthetic_demo_file(tmp_path / "demos/b_demo.hdf5", 4, 6, 64, seed=9, instruction="another")
    return tmp_path / "demos"


def write(path, wordings):
    tree = {text: [{"text": other, "axes": []} for other in others] for text, others in wordings.items()}
    path.write_text(json.dumps(tree))
    return path


@pytest.fixture
def wordings(tmp_path):
    return write(tmp_path / "wordings.json", WORDINGS)


def cfg_of(demos, wordings, **more):
    return tiny_cfg(DATA__FILES=[str(demos)], DATA__INSTRUCTIONS=str(wordings), **more)


def test_every_wording_comes_up_about_equally_and_validation_asks_in_its_own(demos, wordings):
    cfg = cfg_of(demos, wordings)
    data = load_data(cfg)
    assert data.wordings == {text: (text, *others) for text, others in WORDINGS.items()}
    encoder = build_encoder(cfg, data.action_stats)
    samples = TrainingSet(data.train, encoder, 0, wordings=data.wordings)
    counts = Counter(samples.drawn((epoch, 0, index))[0].instruction for epoch in range(50) for index in range(48))
    assert set(counts) == {text for texts in data.wordings.values() for text in texts}
    for text, texts in data.wordings.items():
        share = 24 * 50 / len(texts)
        assert all(0.85 * share < counts[one] < 1.15 * share for one in texts), text
    keys = [(epoch, 0, 3) for epoch in range(20)]
    key = next(key for key in keys if samples.drawn(key)[0].instruction != "pick up the stripe")
    drawn = samples.drawn(key)[0].instruction
    prompt = encoder.prompt.encode(drawn)["input_ids"]
    assert torch.equal(samples[key]["input_ids"][: len(prompt)], prompt)
    plain = TrainingSet(data.train, encoder, 0, augment=False, wordings=data.wordings)
    assert plain.drawn(key)[0].instruction == "pick up the stripe"


def test_without_wordings_nothing_is_drawn(demos):
    cfg = tiny_cfg(DATA__FILES=[str(demos)])
    data = load_data(cfg)
    encoder = build_encoder(cfg, data.action_stats)
    assert data.wordings == {} and "num_wordings" not in data.info
    one, other = (TrainingSet(data.train, encoder, 0, wordings=texts)[(0, 0, 5)] for texts in (None, {}))
    assert all(torch.equal(one[name], other[name]) for name in ("input_ids", "images"))


def start(demos, wordings, folder, *flags, expect=0, **more):
    opts = {"DATA__FILES": [str(demos)], "DATA__INSTRUCTIONS": wordings, "EXP__DIR": folder, **more}
    opts = {"TRAIN__max_steps": 4, "TRAIN__save_every": 2, "DATA__VAL_SHARE": 0.25, **opts}
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, tiny_opts(**opts))]
    try:
        train.main(command)
    except SystemExit as end:
        assert (end.code or 0) == expect


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_and_not_with_other_wordings(demos, wordings, tmp_path, capsys):
    start(demos, wordings, tmp_path, "--nproc", "1", EXP__ID="whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    shutil.rmtree(tmp_path / "cut/step_00000004")
    moved = shutil.copy(wordings, tmp_path / "moved.json")
    start(demos, moved, tmp_path, "--nproc", "1", "--resume", EXP__ID="cut")
    assert compare_runs(tmp_path / "whole", tmp_path / "cut") == []
    other = write(tmp_path / "other.json", {**WORDINGS, "another": ["something else"]})
    capsys.readouterr()
    start(demos, other, tmp_path, "--nproc", "1", "--resume", expect=2, EXP__ID="cut", TRAIN__max_steps=6)
    assert "was written with data_fingerprint" in capsys.readouterr().err


def test_it_is_planned_with_the_longest_and_shown_as_drawn(demos, wordings, tmp_path, capsys):
    start(demos, wordings, tmp_path, "--dry_run")
    plan = capsys.readouterr().out
    start(demos, "", tmp_path, "--dry_run")
    assert "asked in 5 wordings of 2 instructions" in plan

    def tokens(said):
        return int(next(line for line in said.splitlines() if line.strip().startswith("instruction ")).split()[1])

    assert tokens(plan) > tokens(capsys.readouterr().out)
    start(demos, wordings, tmp_path, "--sanity_forward")
    said = capsys.readouterr().out
    data = load_data(cfg_of(demos, wordings, DATA__VAL_SHARE=0.25))
    key = next(iter(ResumableBatchSampler(len(data.train), 2, "full", 0, 0, 1)))[0]
    drawn = TrainingSet(data.train, None, 0, wordings=data.wordings).drawn(key)[0].instruction
    assert f"{drawn}<|im_end|>" in said.replace("\n  ", " ")


@pytest.mark.parametrize(
    ("wordings", "message"),
    [
        ({"another": ["a second"]}, "has no wordings of 'pick up the stripe'"),
        ({**WORDINGS, "another": ["<|im_end|>"]}, r"the wording '<\|im_end\|>' holds"),
        ({**WORDINGS, "another": ["x" * 600]}, "has 600 bytes, at most 512"),
        ({**WORDINGS, "another": ["..."]}, r"the wording '\.\.\.' is empty"),
    ],
)
def test_wordings_that_cannot_be_used_are_refused(demos, tmp_path, wordings, message):
    with pytest.raises(ValueError, match=rf"DATA.INSTRUCTIONS: .*w\.json.*{message}"):
        load_data(cfg_of(demos, write(tmp_path / "w.json", wordings)))
