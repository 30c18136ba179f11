"""ACTION.RANGE: what integers are spread over, from the data over the checkpoint to the answer."""

import json
import re

import numpy as np
import pytest

from libs.action_text import ActionTextCodec
from libs.errors import BadInput
from rv_eval.policy import Policy
from rv_train import train
from rv_train.data.load import load_data
from rv_train.data.stats import action_range, read_stats, write_stats
from rv_train.policies import build_encoder
from tests.demo_files import write_synthetic_demo_file
from tests.manifests import build, write_foreign
from tests.tiny import ACTION_STATS, ROOT, flow_opts, make_tiny_checkpoint, tiny_cfg, tiny_opts
from tools.peek_manifest import main as peek

NARROW = {"ACTION__RANGE": "q01_q99"}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "a_demo.hdf5"
    write_synthetic_demo_file(path, num_demos=4, num_frames=40, resolution=64, seed=0)
    return path


def data_of(path, **opts):
    return load_data(tiny_cfg(DATA__FILES=[str(path)], **opts))


def clipped(actions, stats):
    """Values outside the quantiles."""
    return int(((actions < stats["q01"]) | (actions > stats["q99"])).sum())


def test_quantiles_are_the_range_and_what_lies_outside_is_clipped_and_counted(demos, capsys):
    whole, narrow = data_of(demos), data_of(demos, **NARROW)
    stats = whole.action_stats
    assert narrow.action_stats == stats and whole.info["num_clipped"] == 0
    assert narrow.info["num_clipped"] == clipped(whole.train.all_actions().astype(np.float64), stats) > 0
    assert action_range(stats) == (stats["min"], stats["max"])
    assert action_range(stats, "q01_q99") == (stats["q01"], stats["q99"])
    codec = build_encoder(tiny_cfg(**NARROW), stats).codec
    assert (codec.low.tolist(), codec.high.tolist()) == (stats["q01"], stats["q99"])
    largest = whole.train.all_actions()[:, 1].argmax()
    text = codec.encode(whole.train[int(largest)].actions[None])[0]
    assert text.split()[1] == "100" and codec.decode([text], 2)[0][0, 0, 1] == np.float32(stats["q99"][1])
    opts = tiny_opts(DATA__FILES=[str(demos)], **NARROW)
    train.main(["--cfg", str(ROOT / "configs/tiny.yaml"), "--dry_run", *map(str, opts)])
    wanted = rf"range of the actions of this data, q01_q99, {narrow.info['num_clipped']} values outside it are clipped"
    assert re.search(wanted, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q01": None}, "the statistics have no q01 of 7 finite numbers, but None"),
        ({"q99": [1.0] * 6}, "no q99 of 7 finite numbers"),
        ({"q99": [float("nan")] * 7}, "no q99 of 7 finite numbers"),
        ({"q01": [2.0] * 7}, "dimension 0 of the statistics runs from 2.0 to 1.0"),
    ],
)
def test_statistics_without_the_range_are_refused(demos, tmp_path, change, message):
    write_stats({**ACTION_STATS, **change}, tmp_path / "stats.json")
    with pytest.raises(BadInput, match=f"ACTION.RANGE q01_q99: .*{re.escape(message)}"):
        data_of(demos, DATA__STATS=str(tmp_path / "stats.json"), **NARROW)
    data_of(demos, DATA__STATS=str(tmp_path / "stats.json"))  # nobody asks for them


def test_a_flow_policy_refuses_it():
    with pytest.raises(BadInput, match=r"ACTION\.RANGE q01_q99 .*flow_expert writes none: leave it min_max"):
        tiny_cfg(**flow_opts(**NARROW))
    with pytest.raises(BadInput, match=r"ACTION\.RANGE is 'q05_q95'; choose one of min_max, q01_q99"):
        tiny_cfg(ACTION__RANGE="q05_q95")


def test_it_travels_with_the_checkpoint_and_answers_are_read_with_it(tmp_path):
    run = make_tiny_checkpoint(tmp_path, **NARROW)
    stats = {**ACTION_STATS, "q01": [-0.25] * 7, "q99": [0.5] * 7}
    (run / "last/model/action_stats.json").write_text(json.dumps(stats))
    rng = np.random.default_rng(0)
    views = {view: rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for view in ("agentview", "eye_in_hand")}
    prediction = Policy.from_checkpoint(run).predict_detailed([{"views": views, "instruction": "go"}])
    expected = ActionTextCodec(stats["q01"], stats["q99"], 100).decode(prediction.texts, 2)[0]
    np.testing.assert_array_equal(prediction.chunk, expected)
    assert prediction.chunk.min() >= -0.25 and prediction.chunk.max() <= 0.5
    other = ActionTextCodec(stats["min"], stats["max"], 100).decode(prediction.texts, 2)[0]
    assert (other != expected).any()


def run(*flags, expect=0, **opts):
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *flags]
    with pytest.raises(SystemExit) as end:
        train.main([*command, *map(str, tiny_opts(**opts))])
    assert end.value.code == expect


@pytest.mark.slow
def test_a_run_trains_validates_and_resumes_with_it_and_no_other(demos, tmp_path, capsys):
    write_stats(data_of(demos).action_stats, tmp_path / "stats.json")
    opts = {"EXP__DIR": tmp_path, "DATA__FILES": [str(demos)], "TRAIN__max_steps": 1, "DATA__VAL_SHARE": 0.25, **NARROW}
    opts |= {"VALID__gen_samples": 2, "DATA__STATS": str(tmp_path / "stats.json")}
    run(**opts)
    folder = tmp_path / "tiny/last/model"
    assert "RANGE: q01_q99" in (folder / "vla_config.yaml").read_text()
    policy = Policy.from_checkpoint(folder)
    stats = read_stats(folder)
    assert policy.model.codec.low.tolist() == stats["q01"] and policy.model.codec.high.tolist() == stats["q99"]
    resumed = {**opts, "TRAIN__max_steps": 2}
    capsys.readouterr()
    run("--resume", expect=2, **{**resumed, "ACTION__RANGE": "min_max"})
    assert "ACTION.RANGE is 'min_max' now, the run was started with 'q01_q99'" in capsys.readouterr().err
    write_stats({**stats, "q99": [2.0] * 7}, tmp_path / "stats.json")
    run("--resume", expect=2, **resumed)
    assert "was written with actions of q99 " in capsys.readouterr().err
    write_stats({**stats, "max": [2.0] * 7}, tmp_path / "stats.json")  # not in use
    run("--resume", **resumed)


def test_a_manifest_is_written_and_read_with_it(demos, tmp_path, capsys):
    folder = build(tmp_path / "narrow", demos, range="q01_q99")
    theirs, ours = data_of(demos, **NARROW), data_of(folder, DATA__SOURCE="manifest", **NARROW)
    said = capsys.readouterr().out
    assert f"{theirs.info['num_clipped']:,} action values clipped" in said
    stats = theirs.action_stats
    assert ours.action_stats == stats and ours.info["num_clipped"] == theirs.info["num_clipped"] > 0
    codec = ActionTextCodec(stats["q01"], stats["q99"], 100)
    for index in range(0, 160, 13):
        sample, true = ours.train[index], theirs.train[index]
        assert [sample.action_text] == codec.encode(true.actions[None])
        np.testing.assert_array_equal(sample.actions, codec.decode([sample.action_text], 2)[0][0])
    with pytest.raises(BadInput, match=r"was written with action_range q01_q99, ACTION\.RANGE is min_max"):
        data_of(folder, DATA__SOURCE="manifest")
    with pytest.raises(BadInput, match=r"was written with action_range min_max, ACTION\.RANGE is q01_q99"):
        data_of(build(tmp_path / "wide", demos), DATA__SOURCE="manifest", **NARROW)
    capsys.readouterr()
    peek([str(folder), "--num_samples", "1"])
    first = codec.from_integers([int(word) for word in ours.train[0].action_text.split()[:7]])
    assert f"{first[1]:.3f}"[:5] in capsys.readouterr().out


def test_somebody_elses_manifest_is_read_with_what_is_chosen(tmp_path):
    folder = write_foreign(tmp_path / "theirs", [("first", 3)], with_stats=False)
    write_stats({**ACTION_STATS, "q01": [-0.5] * 7, "q99": [0.5] * 7}, folder)
    theirs = {"DATA__SOURCE": "manifest", "DATA__VIEWS": ["camera"]}
    text = folder / "manifest.jsonl"
    text.write_text(text.read_text().replace("50 50", "100 100"))
    assert data_of(folder, **theirs).train[0].actions[0, 0] == 1
    assert data_of(folder, **theirs, **NARROW).train[0].actions[0, 0] == 0.5
