"""Checkpoints on disk: damage, rotation, full disks, two processes in one folder."""

import multiprocessing
import os
import shutil

import pytest

from libs.errors import BadInput
from rv_train import checkpoint
from rv_train.checkpoint import checkpoints, find_damage, find_resume, load_model_folder, lock, save_checkpoint
from tests.full_disk import small_files
from tests.tiny import ACTION_STATS, lora_opts, make_tiny_base, tiny_cfg, tiny_model


@pytest.fixture(scope="module")
def save():
    model = tiny_model(tiny_cfg())

    def save(run, step, best=None, links=(), **more):
        cfg = tiny_cfg(**more)
        run.mkdir(exist_ok=True)
        save_checkpoint(run, step, model, {"step": step, "best": best}, cfg, ACTION_STATS, {"render": "fast"}, links)

    return save


@pytest.fixture
def run(tmp_path, save):
    for step in (2, 4, 6):
        save(tmp_path / "run", step)
    return tmp_path / "run"


def names(run):
    return [path.name for path in checkpoints(run)]


def test_the_last_every_mth_and_the_best_stay(tmp_path, save):
    run = tmp_path / "run"
    best = None
    for step in range(1, 11):
        best = (0.1, 3) if step == 3 else best
        save(run, step, best, TRAIN__keep_last=2, TRAIN__keep_every=4)
    assert names(run) == [f"step_{step:08d}" for step in (3, 4, 8, 9, 10)]
    assert (run / "best").resolve().name == "step_00000003" and (run / "last").resolve().name == "step_00000010"
    save(run, 11, (0.05, 11), TRAIN__keep_last=2, TRAIN__keep_every=4)
    assert names(run) == [f"step_{step:08d}" for step in (4, 8, 10, 11)]
    assert (run / "best").resolve().name == "step_00000011"


def test_a_copy_of_the_base_outlives_the_checkpoint_a_run_resumed_from(tmp_path):
    cfg = tiny_cfg(**lora_opts(make_tiny_base(tmp_path)), TRAIN__save_base=True, TRAIN__keep_last=1)
    run, model = tmp_path / "run", tiny_model(cfg)
    run.mkdir()
    for step in range(1, 5):
        save_checkpoint(run, step, model, {"step": step, "best": None}, cfg, ACTION_STATS, {"render": "fast"})
        if step == 1:
            shutil.rmtree(tmp_path / "base_0")
            model = load_model_folder(run)[0]
    assert names(run) == ["step_00000004"] and find_damage(run / "step_00000004") is None
    load_model_folder(run)


def test_what_epoch_links_name_stays(tmp_path, save):
    run = tmp_path / "run"
    for step in range(1, 8):
        links = {3: ["epoch_5"], 6: ["epoch_10", "final"]}.get(step, [])
        save(run, step, links=links, TRAIN__keep_last=1)
        assert (run / "final").exists() == (step == 6)  # step 7: the run was continued, it has not ended
    assert names(run) == [f"step_{step:08d}" for step in (3, 6, 7)]
    assert {name: (run / name).resolve().name for name in ("epoch_5", "epoch_10", "last")} == {
        "epoch_5": "step_00000003",
        "epoch_10": "step_00000006",
        "last": "step_00000007",
    }
    checkpoint.refuse_foreign(run)  # links are no strangers


def test_a_kill_before_the_links_are_set_is_made_good(run):
    checkpoint._point(run / "last", "step_00000004")
    checkpoint.tidy(run, 6, (0.5, 2), tiny_cfg(TRAIN__keep_last=1).TRAIN, ["epoch_3"])
    assert (run / "epoch_3").resolve().name == "step_00000006"
    assert (run / "last").resolve().name == "step_00000006" and (run / "best").resolve().name == "step_00000002"
    assert names(run) == ["step_00000002", "step_00000006"]


def test_a_run_that_was_copied_by_what_follows_links_goes_on(tmp_path, save):
    """As `cp -L` does it, and every store of objects, which has no links."""
    for step in (2, 4, 6):
        save(tmp_path / "there", step, (0.1, 4), ["epoch_1"] if step == 2 else [], TRAIN__keep_last=1)
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "there", run)
    (run / "epoch_notes").mkdir()  # somebody's own
    remarks = checkpoint.relink(run)
    assert [line.split(": ")[1] for line in remarks] == [
        f"it is a link to step_0000000{step} again, and the copy {name}.copy, to be removed"
        for name, step in (("best", 4), ("epoch_1", 2), ("last", 6))
    ]
    assert checkpoint.relink(run) == [] and find_damage(run / "last.copy") is None
    save(run, 8, (0.1, 4), TRAIN__keep_last=1)
    assert names(run) == [f"step_0000000{step}" for step in (2, 4, 8)]
    assert {name: os.readlink(run / name) for name in ("last", "best", "epoch_1")} == {
        "last": "step_00000008",
        "best": "step_00000004",
        "epoch_1": "step_00000002",
    }
    shutil.copytree(run / "last", run / "final")
    (run / "final.copy").mkdir()
    with pytest.raises(BadInput, match=r"final is a folder and no link, and final.copy is there already"):
        checkpoint.relink(run)


def test_damaged_checkpoints_do_not_count_among_the_last(run, save):
    for step in (4, 6):
        flip_a_byte(run / f"step_{step:08d}/trainer.pt")
    assert find_resume(run)[0].name == "step_00000002"
    checkpoint.tidy(run, 2, None, tiny_cfg(TRAIN__keep_last=2).TRAIN)
    save(run, 3, TRAIN__keep_last=2)  # stopped by a signal on the way
    assert names(run) == [f"step_{step:08d}" for step in (2, 3, 4, 6)] and find_resume(run)[0].name == "step_00000003"


def test_what_kills_left_is_removed(run, save):
    shutil.copytree(run / "step_00000006", run / "step_00000005.tmp")  # while it was written
    (run / "step_00000002/complete").unlink()  # while it was removed
    save(run, 8)
    assert sorted(path.name for path in run.iterdir()) == ["last", *(f"step_{step:08d}" for step in (4, 6, 8))]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda f: flip_a_byte(f / "model/model.safetensors"), "model/model.safetensors is not what was written"),
        (lambda f: os.truncate(f / "trainer.pt", 100), "trainer.pt is not what was written"),
        (lambda f: (f / "model/action_stats.json").unlink(), "model/action_stats.json is missing"),
        (lambda f: (f / "complete").unlink(), "no readable 'complete'"),
        (lambda f: (f / "complete").write_text('{"model'), "no readable 'complete'"),
        (lambda f: (f / "complete").write_text("[]"), "no readable 'complete'"),
    ],
)
def test_a_damaged_checkpoint_is_detected_and_the_one_before_used(run, damage, reason):
    assert find_resume(run) == (run / "step_00000006", [])
    damage(run / "step_00000006")
    folder, remarks = find_resume(run)
    assert folder.name == "step_00000004" and len(remarks) == 1
    assert "step_00000006 is damaged: " in remarks[0] and reason in remarks[0]
    for step in (2, 4):
        damage(run / f"step_{step:08d}")
    with pytest.raises(ValueError, match=r"no complete checkpoint to resume from .*step_00000006 is damaged"):
        find_resume(run)


def test_what_a_kill_during_a_save_leaves_is_no_checkpoint(run):
    shutil.copytree(run / "step_00000006", run / "step_00000008.tmp")
    assert names(run)[-1] == "step_00000006"
    assert find_resume(run) == (run / "step_00000006", [])


@pytest.mark.parametrize("room", [100, 50_000, 400_000])
def test_a_full_disk_leaves_the_last_good_checkpoint(run, save, room):
    """The kernel refuses to make files longer than `room` bytes, as a full disk would at that point."""
    with (
        small_files(room),
        pytest.raises(OSError, match=r"step 8 cannot be written .*GiB are free.*last good one is step_00000006"),
    ):
        save(run, 8)
    assert sorted(p.name for p in run.iterdir()) == ["last", *names(run)] and find_damage(run / "last") is None
    save(run, 8)
    assert find_resume(run) == (run / "step_00000008", [])


def hold(run, holding, finish):
    with lock(run):
        holding.set()
        finish.wait(60)


def test_two_processes_never_write_into_one_run(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    holding, finish = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, holding, finish))
    other.start()
    assert holding.wait(60)
    monkeypatch.setattr(checkpoint, "LOCK_WAIT_S", 0.2)
    with pytest.raises(ValueError, match="is in use: another process trains there"), lock(tmp_path):
        pass
    monkeypatch.setattr(checkpoint, "LOCK_WAIT_S", 60.0)
    other.kill()  # a killed process lets go at once
    with lock(tmp_path):
        pass
    other.join()
