"""DATA.MIX: which samples of which set are drawn, what a mixture is refused for, and what is measured of it."""

import itertools
import json

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from libs.errors import BadInput
from rv_train import train
from rv_train.data import hdf5
from rv_train.data.load import load_data, open_data
from rv_train.data.sampler import ResumableBatchSampler
from rv_train.data.stats import compute_action_stats
from rv_train.data.training_set import TrainingSet
from rv_train.policies import build_encoder
from rv_train.validate import spread_over
from tests.demo_files import write_synthetic_demo_file
from tests.lerobot_sets import FOLDER, copied, edited_info
from tests.refusal import refusal
from tests.tiny import ROOT, tiny_cfg, tiny_opts
from tools import compute_stats, diagnose, inspect_demos

LIBERO_LIKE = str(FOLDER / "v30/libero_hf_video")  # 7 numbers an action, two cameras of 256 x 256
RENAME = {
    "agentview": "observation.images.image",
    "eye_in_hand": "observation.images.image2",
    "ee_states": "observation.state",
}
SO_LIKE = str(FOLDER / "v30/so_like")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A large set and a small one: 24 and 6 frames."""
    folder = tmp_path_factory.mktemp("mixture")
    write_synthetic_demo_file(folder / "large.hdf5", 4, 6, 64, seed=0, instruction="of the large one")
    write_synthetic_demo_file(folder / "small.hdf5", 2, 3, 64, seed=9, instruction="of the small one")
    return folder


def mix_opts(files, *weights, **more):
    weights = weights or (1, 3)
    sets = [
        {"FILES": [str(files / f"{name}.hdf5")], "NAME": name, **({"WEIGHT": weight} if weight else {})}
        for name, weight in zip(("large", "small"), weights, strict=True)
    ]
    return {"DATA__SOURCE": "mix", "DATA__MIX": sets, **more}


# ------------------------------------------------------------------------------------------------ what is drawn


def sampler_of(mix=((24, 0.25), (6, 0.75)), start=0, **more):
    options = {"batch_size": 5, "mode": "full", "seed": 3, "rank": 0, "world_size": 1, **more}
    return ResumableBatchSampler(30, **options, start_batch=start, mix=mix)


def keys_of(count, **options):
    return [key for batch in itertools.islice(sampler_of(**options), count) for key in batch]


def test_every_epoch_has_its_share_of_every_set():
    for epoch in range(8):
        drawn = [index for _, _, index in keys_of(6, start=6 * epoch)]
        assert sum(index >= 24 for index in drawn) in (22, 23) and len(drawn) == 30  # 22.5 of 30: a whole number of it


def test_a_set_is_drawn_in_rounds_that_miss_and_repeat_nothing():
    """Over many epochs every sample of a set comes equally often, whatever its weight; and under another key each time,
    so that it is augmented anew."""
    keys = keys_of(6 * 12)
    assert len(set(keys)) == len(keys)
    for first, size in ((0, 24), (24, 6)):
        counts = np.bincount([index - first for _, _, index in keys if first <= index < first + size], minlength=size)
        assert counts.max() - counts.min() <= 1 and counts.min() >= 2
        rounds = [turn for turn, _, index in keys if first <= index < first + size]
        assert np.bincount(rounds)[:-1].tolist() == [size] * max(rounds)


@pytest.mark.parametrize("mode", ["full", "sharded"])
def test_a_mixture_resumes_at_any_batch(mode):
    whole = list(itertools.islice(sampler_of(mode=mode, world_size=2, rank=1), 20))
    for start in (1, 3, 6, 7, 13):
        assert (
            list(itertools.islice(sampler_of(mode=mode, world_size=2, rank=1, start=start), 20 - start))
            == whole[start:]
        )


def test_sharded_ranks_share_a_mixtures_epoch():
    ranks = [keys_of(3, mode="sharded", world_size=2, rank=rank) for rank in (0, 1)]
    both = [(turn, index) for keys in ranks for turn, _, index in keys]
    assert len(both) == len(set(both)) == 30 and sum(index >= 24 for _, index in both) in (22, 23)


def test_ranks_of_their_own_draw_differently():
    assert keys_of(6)[:10] != [(turn, 0, index) for turn, _, index in keys_of(6, rank=1)[:10]]


def test_without_weights_a_mixture_is_the_sets_one_after_another(files):
    mixed = load_data(tiny_cfg(**mix_opts(files, 0, 0)))
    joined = load_data(tiny_cfg(DATA__FILES=[str(files / "large.hdf5"), str(files / "small.hdf5")]))
    batches = []
    for data in (mixed, joined):
        sampler = ResumableBatchSampler.from_cfg(tiny_cfg(), data.train, 0, 1)
        batches.append(list(itertools.islice(sampler, 30)))
    assert batches[0] == batches[1]
    numbers = ("min", "max", "mean", "std", "q01", "q99", "count")
    assert all(mixed.action_stats[key] == joined.action_stats[key] for key in numbers)


def test_few_files_are_open_at_a_time_of_all_sets_together(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5.OPEN, "most", 3)
    for number in range(8):
        write_synthetic_demo_file(tmp_path / f"{number % 2}/{number}_demo.hdf5", 1, 2, 32, seed=number)
    data = open_data(tiny_cfg(DATA__SOURCE="mix", DATA__MIX=[{"FILES": [str(tmp_path / name)]} for name in "01"]))
    assert len(data.files) == 8
    for index in range(len(data)):
        assert data[index].file == str(data.files[index // 2].path)
        assert sum(file._file is not None for file in data.files) <= 3


def test_a_frame_that_comes_twice_is_augmented_anew(files):
    data = load_data(tiny_cfg(**mix_opts(files)))
    samples = TrainingSet(data.train, build_encoder(tiny_cfg(), data.action_stats), seed=0)
    keys = [key for key in next(iter(ResumableBatchSampler(30, 30, "full", 0, 0, 1, 0, [(24, 0.1), (6, 0.9)])))]
    twice = [key for key in keys if key[2] == 25][:2]
    one, other = (samples[key]["images"] for key in twice)
    assert len(twice) == 2 and not (one == other).all()


# ------------------------------------------------------------------------------------------------ statistics


def test_statistics_are_of_what_is_drawn(files):
    data = open_data(tiny_cfg(**mix_opts(files, 1, 3)))
    stats = compute_action_stats(data)
    large, small = (
        np.concatenate([rows.actions for rows in data.demos if rows.file.path.stem == name]).astype(np.float64)
        for name in ("large", "small")
    )
    drawn = np.concatenate([large] + [small] * 12)  # 24 to 72: the weights
    np.testing.assert_allclose(stats["mean"], drawn.mean(0), atol=1e-12)
    np.testing.assert_allclose(stats["std"], drawn.std(0), atol=1e-12)
    whole = np.concatenate([large, small])
    assert stats["min"] == whole.min(0).tolist() and stats["max"] == whole.max(0).tolist()
    np.testing.assert_array_equal(stats["q01"], np.quantile(drawn, 0.01, axis=0, method="inverted_cdf"))
    np.testing.assert_array_equal(stats["q99"], np.quantile(drawn, 0.99, axis=0, method="inverted_cdf"))
    assert (stats["count"], stats["num_demos"]) == (30, 6)


def test_a_run_knows_all_sets(files):
    data = load_data(tiny_cfg(**mix_opts(files, DATA__VAL_SHARE=0.3)))
    large, small = data.info["mix"]
    assert (large["name"], large["weight"], large["share"], large["samples"]) == ("large", 1.0, 0.25, 24)
    assert (small["demos"], small["source"], small["key_map"]) == (2, "hdf5", "libero")
    alone = open_data(tiny_cfg(DATA__FILES=[str(files / "small.hdf5")]))
    assert small["fingerprint"] == alone.fingerprint() != large["fingerprint"]
    # Held out of every set by itself: 1 of 4 demos, 1 of 2.
    assert [(block.name, block.samples, block.demos) for block in data.valid.mix] == [("large", 6, 1), ("small", 3, 1)]
    assert [block.share for block in data.train.mix] == [0.25, 0.75]
    assert spread_over(data.valid.mix, 4) == [[3], [6, 7, 8]] and spread_over(data.valid.mix, 0) == [
        [*range(6)],
        [6, 7, 8],
    ]
    assert data.info["fingerprint"] == load_data(tiny_cfg(**mix_opts(files, 5, 1))).info["fingerprint"]


# ------------------------------------------------------------------------------------------------ sets of two kinds


def lerobot_mix(files, path=LIBERO_LIKE, **more):
    sets = [
        {"FILES": [str(files / "small.hdf5")], "WEIGHT": 1},
        {"FILES": [str(path)], "NAME": "arm", "WEIGHT": 1, "RENAME": RENAME, "INSTRUCTION": "with another arm"},
    ]
    return {"DATA__SOURCE": "mix", "DATA__MIX": sets, **more}


def test_sets_of_other_kinds_names_and_sizes_are_one(files):
    data = open_data(tiny_cfg(**lerobot_mix(files)))
    assert [block.name for block in data.mix] == ["small.hdf5", "arm"]
    assert data.views == ["agentview", "eye_in_hand"] and data.facts.cameras["agentview"] == (64, 64)
    sample = data[7]  # the second frame of the second set
    other = open_data(
        tiny_cfg(
            DATA__SOURCE="lerobot", DATA__FILES=[LIBERO_LIKE], DATA__VIEWS=[RENAME["agentview"], RENAME["eye_in_hand"]]
        )
    )
    np.testing.assert_array_equal(sample.views[1], other[1].views[1])
    assert sample.views[0].shape == (256, 256, 3) and sample.instruction == "with another arm"
    np.testing.assert_array_equal(sample.actions, other[1].actions)
    np.testing.assert_array_equal(data.picture(2, 1, "eye_in_hand"), other.picture(0, 1, RENAME["eye_in_hand"]))
    assert data.where(7) == other.where(1) and data.index(2, 1) == 7
    assert "sets that differ: small.hdf5 rendering fast, arm rendering standard" in " ".join(data.remarks())


def test_contradictions_name_both_sets(files, tmp_path):
    def said(sets, **more):
        with pytest.raises(BadInput) as refused:
            load_data(tiny_cfg(DATA__SOURCE="mix", DATA__MIX=sets, **more))
        assert "\n" not in str(refused.value)
        return str(refused.value)

    small, arm = lerobot_mix(files)["DATA__MIX"]
    views = {"agentview": "observation.images.front", "eye_in_hand": "observation.images.wrist"}
    six = {"FILES": [SO_LIKE], "NAME": "six", "WEIGHT": 1, "RENAME": views}
    line = said([small, six])
    assert (
        "actions of six" in line and SO_LIKE in line and "have 6 numbers, those of small.hdf5" in line and " 7:" in line
    )
    line = said([small, {**arm, "RENAME": {"agentview": RENAME["agentview"]}}])
    assert "DATA.VIEWS: arm" in line and "no 'eye_in_hand', as small.hdf5" in line and "RENAME" in line
    # LeRobot's state has 8 numbers, LIBERO's ee_states 6.
    line = said([small, arm], MODEL__NAME="flow_expert", DATA__PROPRIO=["ee_states"])
    assert "ee_states has 8 numbers in arm" in line and "6 in small.hdf5" in line
    joints = copied("v30/libero_hf_video", tmp_path)
    with edited_info(joints) as info:
        info["features"]["action"]["names"] = [f"joint_{n}" for n in range(7)]
    line = said([arm, {**arm, "NAME": "joints", "FILES": [str(joints)]}])
    assert "numbers of an action of joints" in line and "joint_0" in line and "those of arm" in line and "roll" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"FILES": []}, "entry 1: FILES lists files"),
        ({"FILES": "a"}, "entry 1: FILES cannot be 'a'"),
        ({"SHARE": 2}, "entry 1: no key SHARE; a set has FILES, SOURCE"),
        ({"WEIGHT": 0}, "WEIGHT is above 0, got 0"),
        ({"WEIGHT": True}, "WEIGHT cannot be True"),
        ({"NAME": "a b"}, "NAME is made of letters"),
        ({"NAME": "large"}, "two sets are called large"),
        ({"SOURCE": "manifest"}, r"small .* is manifest, integers of a range of its own"),
        ({"SOURCE": "mix"}, r"small .* is mix, a mixture itself"),
        ({"SOURCE": "zarr"}, "entry 1: no SOURCE 'zarr'"),
        ({"RENAME": {"agentview": 3}}, "RENAME maps names"),
        ({"RENAME": {"agentview": "nowhere"}}, "small .*: RENAME names 'nowhere', it has agentview"),
    ],
)
def test_entries_that_make_no_sense(files, change, words):
    opts = mix_opts(files)
    opts["DATA__MIX"][1] |= change
    with pytest.raises(BadInput, match=words):
        open_data(tiny_cfg(**opts))


def test_keys_that_cannot_be_together(files):
    opts = mix_opts(files)
    with pytest.raises(BadInput, match=r"DATA.MIX lists sets, DATA.SOURCE is hdf5: set it to mix"):
        tiny_cfg(**{**opts, "DATA__SOURCE": "hdf5"})
    with pytest.raises(BadInput, match=r"leave DATA.FILES .* empty"):
        tiny_cfg(**opts, DATA__FILES=["here"])
    with pytest.raises(BadInput, match="large has a WEIGHT and small has none"):
        tiny_cfg(**mix_opts(files, 1, 0))
    with pytest.raises(BadInput, match=r"DATA.MIX must be a list of dict, got \['a'\]"):
        tiny_cfg(DATA__SOURCE="mix", DATA__MIX=["a"])


# ------------------------------------------------------------------------------------------------ runs and tools


def arguments(folder, files, *flags, **opts):
    opts = {"EXP__DIR": folder, "EXP__ID": "run", "DATA__VAL_SHARE": 0.3, "TRAIN__max_steps": 4, **opts}
    return ["--cfg", str(ROOT / "configs/tiny.yaml"), *flags, *map(str, tiny_opts(**mix_opts(files, **opts)))]


@pytest.fixture(scope="module")
def run(files, tmp_path_factory, forked_ranks):
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(SystemExit) as end:
        train.main(arguments(folder, files, "--nproc", "2", TRAIN__save_every=2))
    assert not end.value.code
    return folder / "run"


def test_the_loss_is_measured_of_every_set_and_together(run):
    events = EventAccumulator(str(run))
    events.Reload()
    together, large, small = (
        [point.value for point in events.Scalars(tag)] for tag in ("val/loss", "val/loss_large", "val/loss_small")
    )
    assert len(together) == len(large) == len(small) > 0
    np.testing.assert_allclose(together, 0.25 * np.array(large) + 0.75 * np.array(small), rtol=1e-5)
    assert large != small


def test_a_summary_lists_the_sets(run, files, capsys):
    said = json.loads((run / "run.json").read_text())["data"]["mix"]
    assert [one["name"] for one in said] == ["large", "small"]
    train.main(arguments(run.parent, files, "--dry_run", EXP__ID="plan"))
    lines = capsys.readouterr().out
    assert "large: 18 frames of 3 demos, 1 held out; weight 1, 25.0% of the samples, 0.292 passes an epoch" in lines
    assert "small: 3 frames of 1 demo, 1 held out; weight 3, 75.0% of the samples, 5.25 passes an epoch" in lines


def test_other_weights_are_another_run(run, files, capsys, tmp_path):
    changed = mix_opts(files, 1, 1)["DATA__MIX"]
    opts = tiny_opts(**{**mix_opts(files), "DATA__MIX": changed, "EXP__DIR": run.parent, "EXP__ID": "run"})
    opts += ["DATA.VAL_SHARE", 0.3, "TRAIN.max_steps", 6]
    said = refusal(train.main, capsys, "--cfg", ROOT / "configs/tiny.yaml", "--nproc", 2, "--resume", *opts)
    assert "DATA.MIX of large 1, small 3, now large 1, small 1" in said


def test_the_tools_take_the_recipe_of_a_mixture(run, files, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"DATA": {"SOURCE": "mix", "MIX": mix_opts(files)["DATA__MIX"]}}))
    inspect_demos.main([str(path), "--verify"])
    assert "no problems" in capsys.readouterr().out
    compute_stats.main([str(path), "--out", str(tmp_path / "stats.json")])
    assert json.loads((tmp_path / "stats.json").read_text())["count"] == 30
    out = ["--num_frames", "2", "--num_demos", "1", "--out", str(tmp_path / "diagnosis")]
    diagnose.main(["--model_path", str(run), "--data", str(path), *out])
    assert "open loop" in capsys.readouterr().out
    command = ["--overfit", "1", "--cfg", ROOT / "configs/tiny.yaml", "--data", path, "--nproc", "1"]
    with pytest.raises(SystemExit):  # two steps do not learn a demo by heart, and it says so
        diagnose.main([*map(str, command), "--out", str(tmp_path / "overfit"), "TRAIN.max_steps", "2"])
    assert "did NOT collapse" in capsys.readouterr().out


def test_a_checkpoint_is_opened_without_its_data(files, monkeypatch):
    """A machine that plays has no demonstrations, and looks for none."""
    monkeypatch.setattr("rv_train.data.mix_entries.source_that_fits", lambda files: pytest.fail("looks at the disk"))
    assert tiny_cfg(**mix_opts(files)).DATA.SOURCE == "mix"
