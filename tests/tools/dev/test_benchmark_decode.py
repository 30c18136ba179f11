"""tools/dev/benchmark.py decode: everybody writes the same ids, and what is counted; never how fast anything is."""

import json

import pytest

from tests.demo_files import write_synthetic_demo_file
from tests.tiny import make_tiny_checkpoint
from tools.dev import benchmark
from tools.dev.benchmarks.decode import VARIANTS, summarize


def run(tmp_path, *arguments):
    out = tmp_path / "decode.json"
    benchmark.main(["decode", *arguments, "--out", str(out)])
    return json.loads(out.read_text())


@pytest.mark.slow
def test_random_weights_at_a_size(tmp_path, capsys):
    result = run(tmp_path, "--sizes", "tiny", "--prompts", "2", "--few_prompts", "1", "--batch", "1")
    model = result["models"]["tiny"]
    assert result["problems"] == [] and (model["prompts"], model["answer_tokens"]["max"]) < (3, 281)
    assert set(model["variants"]) == set(VARIANTS) - {"compiled"}
    assert {name: numbers["calls"] for name, numbers in model["variants"].items()} == {
        "generate": 2,
        "static": 1,
        "plain": 2,
        "drafts": 2,
    }
    tokens = [passes for call in model["calls"]["generate"] for passes in call["passes"]]
    for calls in model["calls"].values():
        assert all(call["passes"][0] <= tokens[call["call"]] for call in calls)
    assert "this code, drafts" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_on_frames_it_knows(tmp_path):
    write_synthetic_demo_file(tmp_path / "stripe_demo.hdf5", num_demos=2, num_frames=3, resolution=64, seed=0)
    data = ["--data", str(tmp_path / "stripe_demo.hdf5"), "--batch", "3", "--prompts", "12", "--few_prompts", "3"]
    result = run(tmp_path, "--model_path", str(make_tiny_checkpoint(tmp_path)), *data)
    (model,) = result["models"].values()
    assert result["problems"] == [] and model["prompts"] == 12
    assert all(len(call["passes"]) == 3 for calls in model["calls"].values() for call in calls)
    # A tied head repeats one digit: what was written before is written again, and drafts are right.
    assert model["variants"]["drafts"]["passes_per_answer"] < model["variants"]["plain"]["passes_per_answer"]


def test_ratios_are_of_the_same_calls():
    def call(number, s, *passes):
        return {"call": number, "s": s, "passes": passes}

    calls = {"generate": [call(0, 4.0, 9, 7), call(1, 2.0, 8, 8)], "plain": [call(0, 1.0, 3, 1), call(1, 1.0, 2, 2)]}
    told = summarize(calls, {"generate": [1.0], "plain": [0.5]})
    assert told["plain"]["faster_by"]["median"] == 3.0 and told["plain"]["faster_by"]["quartiles"] == [2.5, 3.5]
    assert (told["generate"]["decoding_ms"], told["plain"]["decoding_ms"]) == (2000.0, 500.0)
    assert told["plain"]["decoding_faster_by"] == 4.0
    assert (told["plain"]["passes_per_answer"], told["plain"]["passes_per_call"]) == (2, 2.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--prompts", "0"], "--prompts must be at least 1, got 0"),
        (["--data", "some.hdf5"], "name the checkpoint with --model_path"),
    ],
)
def test_senseless_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["decode", *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
