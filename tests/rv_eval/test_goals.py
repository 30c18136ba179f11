"""A policy that writes differences, from its training to a robot: whoever asks it gets the goals that were recorded."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from libs.action_form import Rotations
from libs.errors import BadInput
from rv_eval.agent import AgentSettings, ChunkAgent
from rv_eval.envs.base import ActionPart
from rv_eval.policy import Policy
from rv_eval.serving.remote_policy import RemotePolicy
from rv_train import train
from rv_train.checkpoint import read_model_cfg
from rv_train.data.load import open_data
from tests.action_goals import DELTA, write_goals
from tests.lerobot_sets import FRONT, WRIST, copied, edit_column
from tests.refusal import refusal
from tests.rv_eval.servers import running
from tests.tiny import ROOT, flow_opts, tiny_opts
from tools import diagnose

pytestmark = pytest.mark.usefixtures("forked_ranks")
FRAMES = 20  # of a demo; the chunk of its last one repeats an action, all others are written alike
LEARNED = {
    "TRAIN__max_steps": 160,
    "TRAIN__batch_size": 8,
    "TRAIN__lr": 0.005,
    "TRAIN__log_every": 30,
    "DATA__VAL_SHARE": 0.25,
    "VALID__loss_every": 50.0,
    "VALID__gen_every": 50.0,
    "VALID__gen_samples": 4,
    "ACTION__MASK_MAX": 0.0,
    "ACTION__NUM_BINS": 9,  # integers of one digit, the ends of a range among them, which all goals lie at
}
TURNED = {**LEARNED, **DELTA, "ACTION__ROTATION__WRITTEN": "6d_columns"}
KINDS = {
    "text": TURNED,
    "text to before": {**TURNED, "ACTION__DELTA_TO": "action"},
    "flow": {**flow_opts(), **TURNED, "TRAIN__max_steps": 100},
}


def learn(folder, *flags, **opts):
    """Train configs/tiny.yaml in a folder; returns the run."""
    command = ["--cfg", str(ROOT / "configs/tiny.yaml"), "--nproc", "1", *flags]
    with pytest.raises(SystemExit) as end:
        train.main([*command, *map(str, tiny_opts(EXP__DIR=folder, EXP__ID="run", **opts))])
    assert not end.value.code
    return folder / "run"


@pytest.fixture(scope="module", params=KINDS)
def learned(request, tmp_path_factory, forked_ranks):
    """(kind, run folder, its data): what is to be written is nearly the same in every frame."""
    folder = tmp_path_factory.mktemp("learned")
    demos = write_goals(folder / "goals.hdf5", num_demos=4, num_frames=FRAMES)
    return request.param, learn(folder, DATA__FILES=[str(demos)], **KINDS[request.param]), demos


def observations(run, demos):
    """(what a robot would show of every frame but a demo's last, the actions recorded from there)"""
    cfg = read_model_cfg(run / "last/model")
    data = open_data(cfg)
    shown, recorded = [], []
    for sample in (data[index] for index in range(len(data)) if index % FRAMES < FRAMES - 1):
        views = dict(zip(data.views, sample.views, strict=True))
        state = {"ee_pos": sample.proprio[:3], "ee_ori": sample.proprio[3:]}
        shown.append({"views": views, "instruction": sample.instruction, "proprio": state, "random_key": (0,)})
        recorded.append(sample.actions)
    return shown, np.stack(recorded)


def check_goals(kind, answers, recorded):
    """Poses within the codec's step, of ranges of 0.2 and, of columns, of 0.3; of a flow within a share of them."""
    near = 0.05 if kind == "flow" else 0.2 / 9
    np.testing.assert_allclose(answers[..., :3], recorded[..., :3], atol=near)
    one, other = (Rotation.from_rotvec(rows[..., 3:6].reshape(-1, 3)) for rows in (answers, recorded))
    assert (one * other.inv()).magnitude().max() < 3 * near
    # The same numbers, not only the same turn, unless it is so near half a turn that the sign is a matter of rounding.
    clear = np.linalg.norm(recorded[..., 3:6], axis=-1) < np.pi - 3 * near
    np.testing.assert_allclose(answers[clear][:, 3:6], recorded[clear][:, 3:6], atol=3 * near)


def test_the_recorded_goals_come_back(learned):
    kind, run, demos = learned
    policy = Policy.from_checkpoint(run)
    shown, recorded = observations(run, demos)
    answers = policy.predict(shown)
    assert answers.shape == recorded.shape and answers.dtype == np.float32 and policy.action_dim == 7
    check_goals(kind, answers, recorded)
    scores = json.loads((run / "run.json").read_text())["data"]
    assert "as differences to" in scores["written"] and "as 6d_columns" in scores["written"]


def test_whoever_sends_no_state_is_told_which(learned):
    _, run, demos = learned
    policy, shown = Policy.from_checkpoint(run), observations(run, demos)[0][0]
    with pytest.raises(BadInput, match=r"has no ee_ori; the model needs ee_pos \(3\), ee_ori \(3\)"):
        policy.predict([{**shown, "proprio": {"ee_pos": np.zeros(3)}}])
    with pytest.raises(BadInput, match="is given 3 numbers of ee_pos, the environment tells nothing"):
        policy.check_environment(policy.views, 7, policy.render)


def test_overlapping_chunks_are_averaged_as_goals(learned):
    """Differences to two states cannot be averaged; goals of one moment can."""
    kind, run, demos = learned
    policy = Policy.from_checkpoint(run)
    shown, recorded = observations(run, demos)
    parts = [ActionPart("all", 7)]
    agent = ChunkAgent(
        2, AgentSettings(n_action_steps=1, ensemble_size=2, ensemble_weight=1.0), parts, policy.rotations
    )
    for frame in range(5):
        agent.add_answer(policy.predict_detailed([shown[frame] | {"draft": agent.draft}]), 0)
        written = 0 if kind == "flow" else 10  # numbers of an action, more than it has
        assert len(agent.draft) == written
        check_goals(kind, agent.next_action()[None, None], recorded[frame][None, :1])


def test_a_server_gives_the_goals_to_who_sends_the_state(learned):
    _, run, demos = learned
    policy = Policy.from_checkpoint(run)
    shown = observations(run, demos)[0][:2]
    with running(policy) as server:
        remote = RemotePolicy(server.url)
        assert remote.rotations == policy.rotations == Rotations((3,), "axis_angle")
        assert remote.proprio == {"ee_pos": 3, "ee_ori": 3} and remote.action_dim == 7
        np.testing.assert_array_equal(remote.predict(shown), policy.predict(shown))
        with pytest.raises(BadInput, match="proprio"):
            remote.predict([{**shown[0], "proprio": {}}])
        remote.close()


def test_a_diagnosis_compares_goals(learned, tmp_path, capsys):
    kind, run, demos = learned
    out = ["--out", str(tmp_path / "out"), "--num_frames", "2", "--num_demos", "1"]
    diagnose.main(["--model_path", str(run), "--data", str(demos), *out])
    found = json.loads((tmp_path / "out/diagnosis.json").read_text())
    mae = np.array(found["open_loop"]["mae"][:3], dtype=float)
    assert np.nanmax(mae) < 0.05
    if kind == "text":  # what it writes is always the same: of itself a difference does not change with the state
        assert found["variants"]["proprio zero"]["answer"] < 0.02
    assert not any("leaves the range" in one["text"] for one in found["verdicts"])


def test_a_run_is_not_resumed_with_other_differences(learned, capsys):
    kind, run, demos = learned
    if kind != "text":
        return
    opts = {**KINDS[kind], "DATA__FILES": [str(demos)], "EXP__DIR": run.parent, "EXP__ID": "run"}
    command = ["--cfg", ROOT / "configs/tiny.yaml", "--nproc", "1", "--resume"]
    said = refusal(train.main, capsys, *command, *tiny_opts(**{**opts, "ACTION__DELTA_TO": "action"}))
    assert "was written with actions as" in said
    said = refusal(train.main, capsys, *command, *tiny_opts(**{**opts, "ACTION__ROTATION__WRITTEN": "axis_angle"}))
    assert "ACTION.ROTATION.WRITTEN is 'axis_angle' now" in said and "cannot continue" in said


def test_a_lerobot_set_of_goals(tmp_path):
    """One of LeRobot's own samples, its actions replaced by goals: the arm's state half a unit ahead, and more."""
    root = copied("v30/so_like", tmp_path)
    ahead = np.array([0.5, -0.25, 0.125, 1.0, 0.75])
    for path in root.glob("data/**/*.parquet"):
        from pyarrow.parquet import read_table

        states = np.array(read_table(path).column("observation.state").to_pylist())
        goals = np.concatenate([states[:, :5] + ahead, np.ones((len(states), 1))], axis=1)
        edit_column(path, "action", lambda _, goals=goals: goals.tolist())
    names = {"DATA__SOURCE": "lerobot", "DATA__VIEWS": [FRONT, WRIST], "DATA__PROPRIO": ["observation.state"]}
    modes = {"ACTION__MODE": "delta", "ACTION__DELTA": [0, 1, 2, 3, 4], "ACTION__STATE": ["observation.state[0:5]"]}
    opts = {**LEARNED, **names, **modes, "DATA__FILES": [str(root)], "ACTION__DIM": 6, "DATA__VAL_SHARE": 0.2}
    run = learn(tmp_path, **opts)
    data, policy = open_data(read_model_cfg(run / "last/model")), Policy.from_checkpoint(run)
    step = np.ptp([policy.encoder.codec.low, policy.encoder.codec.high], axis=0) / 9
    for index in (0, 3, 20, 40):
        sample = data[index]
        shown = {"views": dict(zip(data.views, sample.views, strict=True)), "instruction": sample.instruction}
        answer = policy.predict([{**shown, "proprio": sample.proprio}])[0]
        assert (np.abs(answer - sample.actions) <= step + 1e-5).all()
