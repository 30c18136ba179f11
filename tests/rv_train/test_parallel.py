"""ddp, zero1 and fsdp: the same training, held differently; saved, resumed, and gone on with in another way."""

import json
import os
import shutil

import pytest
import torch

import rv_train.train
from rv_train import config_checks, shares
from rv_train.backbones.loading import place
from rv_train.checkpoint import find_damage, load_model_folder, load_trainer
from rv_train.difference import compare_runs, differing, read_curves, read_weights
from rv_train.distributed import launch
from rv_train.parallel import PARALLEL, Piece, partition
from rv_train.policies import build_encoder, build_policy
from rv_train.prepare import prepare_run
from rv_train.shares import open_states, part_name
from rv_train.train import main
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ACTION_STATS, ROOT, flow_opts, lora_opts, make_tiny_base, tiny_cfg, tiny_opts

CPU = torch.device("cpu")
RUN = {
    "TRAIN__max_steps": 4,
    "TRAIN__save_every": 2,
    "TRAIN__grad_accum": 2,
    "TRAIN__grad_checkpoint": True,
    "TRAIN__schedule": "none",
    "TRAIN__ema": 0.9,
    "DATA__VAL_SHARE": 0.5,
    "VALID__loss_every": 2.0,
    "VALID__gen_every": 2.0,
    "VALID__gen_samples": 3,
}
QUICK = {"TRAIN__ema": 0.0, "DATA__VAL_SHARE": 0.0}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "synthetic_demo.hdf5"
    write_synthetic_demo_file(path, num_demos=2, num_frames=12, resolution=64, seed=0)
    return path


@pytest.fixture(scope="module")
def train(demos, forked_ranks):
    """Call it: (folder of runs, name, flags and keys of the run) → the run folder."""

    def train(folder, name, *flags, nproc=2, **opts):
        opts = {**RUN, "EXP__DIR": str(folder), "EXP__ID": name, "DATA__FILES": [str(demos)], **opts}
        command = ["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", str(nproc), *flags]
        with pytest.raises(SystemExit) as stopped:
            main([*command, *map(str, tiny_opts(**opts))])
        assert stopped.value.code == 0
        return folder / name

    return train


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """{kind: run folder}"""
    folder = tmp_path_factory.mktemp("runs")
    return {kind: train(folder, kind, TRAIN__PARALLEL=kind) for kind in PARALLEL}


def test_the_keys_are_the_kinds():
    assert tuple(PARALLEL) == config_checks.PARALLEL


def test_zero1_computes_the_numbers_of_ddp(runs):
    ddp, zero1 = (load_model_folder(runs[kind])[0].state_dict() for kind in ("ddp", "zero1"))
    assert ddp.keys() == zero1.keys() and all(torch.equal(value, zero1[name]) for name, value in ddp.items())
    assert read_curves(runs["ddp"]) == read_curves(runs["zero1"])


def test_fsdp_computes_them_up_to_the_order_of_sums(runs):
    ddp, fsdp = (read_curves(runs[kind]) for kind in ("ddp", "fsdp"))
    assert ddp.keys() == fsdp.keys()
    for tag in ("train/loss", "train/grad_norm", "val/loss"):
        for (step, value), (other, close) in zip(ddp[tag], fsdp[tag], strict=True):
            assert step == other and close == pytest.approx(value, rel=1e-5), tag


def pieces_of(run, ranks):
    """The trained parameters of a run as this many ranks of fsdp would hold them: [[Piece of each rank] of each]."""
    named = [(n, p) for n, p in load_model_folder(run)[0].named_parameters() if p.requires_grad]
    rows = [(n, p, -(-len(p) // ranks)) for n, p in named]
    return [
        [Piece(n, p, p[rank * size : (rank + 1) * size], min(rank * size, len(p))) for rank in range(ranks)]
        for n, p, size in rows
    ]


def states_of(run, ranks):
    """{key: {parameter: its state}} of the last checkpoint, read as by so many ranks and joined."""
    pieces, trainer = pieces_of(run, ranks), load_trainer(run / "last")
    names = [of_ranks[0].name for of_ranks in pieces]
    with open_states(run / "last", trainer, names) as states:
        return {
            key: {of_ranks[0].name: torch.cat([states.read(key, piece) for piece in of_ranks]) for of_ranks in pieces}
            for key in (*states.keys(names[0]), "average", "weight")
            if key != "step"
        }


def test_any_number_of_ranks_reads_the_states_of_any_kind(runs):
    ddp, zero1, fsdp = (states_of(runs[kind], 1) for kind in PARALLEL)
    assert set(ddp) == {"exp_avg", "exp_avg_sq", "average", "weight"}
    for key, values in ddp.items():
        for name, value in values.items():
            assert torch.equal(value, zero1[key][name]), (key, name)
            assert fsdp[key][name].shape == value.shape
            assert torch.allclose(value, fsdp[key][name], rtol=1e-3, atol=1e-6), (key, name)
    for kind, whole in (("ddp", ddp), ("fsdp", fsdp)):
        assert list(differing(whole, states_of(runs[kind], 3), kind)) == []


def test_each_rank_writes_its_share(runs, tmp_path):
    for kind in ("zero1", "fsdp"):
        step = shutil.copytree((runs[kind] / "last").resolve(), tmp_path / kind)
        parts = [step / part_name(rank, 2) for rank in range(2)]
        assert find_damage(step) is None and not (step / "trainer.pt").exists()
        sizes = [path.stat().st_size for path in parts]
        assert max(sizes) < 1.2 * min(sizes)
        assert set(json.loads((step / "complete").read_text())) >= {path.name for path in parts} | {"trainer.json"}
        parts[1].write_bytes(parts[1].read_bytes()[:-1])
        assert find_damage(step) == f"{parts[1].name} is not what was written"


@pytest.mark.parametrize("kind", ["zero1", "fsdp"])
def test_a_resumed_run_is_the_uninterrupted_one(runs, train, tmp_path, kind):
    """Two of four steps, then two more."""
    shutil.copytree(runs[kind], tmp_path / kind, symlinks=True)
    shutil.rmtree(tmp_path / kind / "step_00000004")
    assert compare_runs(runs[kind], train(tmp_path, kind, "--resume", TRAIN__PARALLEL=kind)) == []


def test_three_ranks_resume_to_the_bit(train, tmp_path):
    """More than two ranks add in an order, which must be the same in a run's first step and in any other."""
    opts = {**QUICK, "TRAIN__PARALLEL": "ddp", "TRAIN__save_every": 1, "TRAIN__max_steps": 3}
    whole = train(tmp_path, "whole", nproc=3, **opts)
    shutil.copytree(whole, tmp_path / "cut", symlinks=True)
    for step in (2, 3):
        shutil.rmtree(tmp_path / f"cut/step_{step:08d}")
    assert compare_runs(whole, train(tmp_path, "cut", "--resume", nproc=3, **opts)) == []


def test_another_kind_and_number_of_ranks_goes_on_when_told_to(runs, train, tmp_path, capsys):
    shutil.copytree(runs["fsdp"], tmp_path / "fsdp", symlinks=True)
    before = states_of(tmp_path / "fsdp", 1)
    more = {"TRAIN__PARALLEL": "ddp", "TRAIN__max_steps": 5, "TRAIN__lr": 0.0, "TRAIN__weight_decay": 0.0}
    run = train(tmp_path, "fsdp", "--resume", "--allow_changes", nproc=1, **more)
    said = capsys.readouterr().err
    assert "TRAIN.PARALLEL is 'ddp' now, the run was started with 'fsdp'" in said and "world_size 2" in said
    after = states_of(run, 1)  # a step of length 0 was made
    assert list(differing(before["weight"], after["weight"], "weight")) == []
    assert load_trainer(run / "last")["optimizer"]["state"][0]["step"] == 5
    assert list(differing(before["exp_avg"], after["exp_avg"], "")) != []


def of(folder, kind, **more):
    return tiny_cfg(
        **{**RUN, "EXP__DIR": "runs", "EXP__ID": kind, "TRAIN__PARALLEL": kind, **more}, DATA__FILES=[folder]
    )


def train_apart(rank, cfg, job, folders):
    os.chdir(folders[rank.rank])
    return rv_train.train.train(rank, cfg, job)


def test_nodes_that_share_no_file_system(runs, demos, forked_ranks, tmp_path, monkeypatch):
    """Rank 1 in a folder of its own: its share lies with rank 0, which sends it what it lacks."""
    kind = "fsdp"
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    for steps in (2, 4):
        cfg = of(str(demos), kind, TRAIN__max_steps=steps)
        assert launch(train_apart, [CPU] * 2, cfg, prepare_run(cfg, CPU, 2, resume=steps == 4), folders) == 0
    own, other = (folder / "runs" / kind for folder in folders)
    for part in ("last/model", "last"):
        assert list(differing(read_weights(runs[kind] / part), read_weights(own / part), part)) == []
    assert [path.name for path in other.iterdir()] == ["step_00000002"] and find_damage(other / "step_00000002") is None


def train_without_room(rank, cfg, job):
    def write_part(path, tensors):
        path.write_bytes(b"some of it")
        raise OSError("no room")

    if rank.rank == 1:
        shares.write_part = write_part
    return rv_train.train.train(rank, cfg, job)


def test_a_share_that_cannot_be_written_ends_the_run(demos, forked_ranks, tmp_path):
    cfg = of(str(demos), "zero1", EXP__DIR=str(tmp_path), TRAIN__max_steps=500)
    job = prepare_run(cfg, CPU, 2)
    with pytest.raises(RuntimeError, match=r"checkpoint of step 2 cannot be written \(rank 1: no room\)"):
        launch(train_without_room, [CPU] * 2, cfg, job)
    assert not list((tmp_path / "zero1").glob("step_*"))


def test_a_flow_policy_with_adapters(train, tmp_path):
    """In fsdp frozen weights are dealt out with those that are trained."""
    opts = flow_opts(**lora_opts(make_tiny_base(tmp_path)), **QUICK, TRAIN__max_steps=2)
    curves = [
        read_curves(train(tmp_path, kind, TRAIN__PARALLEL=kind, **opts))["train/loss"] for kind in ("ddp", "fsdp")
    ]
    assert [value for _, value in curves[1]] == pytest.approx([value for _, value in curves[0]], rel=1e-5)
    adapters = [read_weights(tmp_path / kind / "last/model") for kind in ("ddp", "fsdp")]
    assert adapters[0].keys() == adapters[1].keys()
    for name, value in adapters[0].items():
        assert torch.allclose(value, adapters[1][name], rtol=1e-3, atol=1e-5), name


def test_shares_are_nearly_equal_and_the_largest_stands_alone():
    sizes = [5, 1, 1, 1, 20, 4, 4]
    owners = partition(sizes, 3)
    loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank) for rank in range(3)]
    assert loads == [20, 8, 8] and partition(sizes, 1) == [0] * 7
    assert partition([3], 4) == [0]


@pytest.mark.parametrize("key, value", [("TRAIN__optimizer", "adamw_8bit"), ("MODEL__QUANTIZE", "nf4")])
def test_what_is_packed_into_blocks_is_not_dealt_out_by_rows(key, value):
    more = lora_opts("somewhere") if key == "MODEL__QUANTIZE" else {}
    with pytest.raises(ValueError, match=f"TRAIN.PARALLEL fsdp deals out rows, which {key.replace('__', '.')} {value}"):
        tiny_cfg(TRAIN__PARALLEL="fsdp", **{**more, key: value})


def test_weights_are_cast_on_the_way_to_their_device(tmp_path):
    """Mapped from their file, in the dtype they have there, until then."""
    base = make_tiny_base(tmp_path, AMP__param_dtype="bfloat16")
    keys = {"MODEL__PATH": str(base), "MODEL__TOKENIZER": str(base), "MODEL__VOCAB_CUT": 0}
    cfg = tiny_cfg(MODEL__INIT="pretrained", **keys)
    encoder = build_encoder(cfg, ACTION_STATS)
    mapped = build_policy(cfg, encoder, mapped=True)
    assert {p.dtype for p in mapped.parameters()} == {torch.bfloat16}
    policy = build_policy(cfg, encoder)
    place(mapped, mapped.backbone, "cpu")
    for loaded in (policy, mapped):
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert loaded.backbone.config.text_config.dtype == torch.float32
    for name, value in policy.backbone.named_parameters():
        assert torch.equal(value, value.bfloat16().float()) and torch.equal(value, mapped.backbone.get_parameter(name))
