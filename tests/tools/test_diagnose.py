"""tools/diagnose.py: what it finds in policies that are blind, not adapted, of other units, or well, of both kinds."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
import torch

from libs.action_form import ActionForm
from rv_eval.diagnosis.measure import cosine, diagnose, relative_change, similarities
from rv_eval.diagnosis.overfit import verdicts
from rv_eval.diagnosis.plots import open_loop_figure
from rv_eval.diagnosis.text import report
from rv_eval.policy import Policy
from rv_train.checkpoint import load_model_folder, read_model_cfg, save_model_folder
from rv_train.data.hdf5 import DemoDataset
from rv_train.data.load import load_data
from rv_train.policies import build_encoder, build_policy
from rv_train.policies.base import Prediction
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ACTION_STATS, ROOT, lora_opts, make_tiny_base, tiny_cfg, tiny_opts, train_adapter
from tools.diagnose import main

FLOW = {
    "MODEL__NAME": "flow_expert",
    "DATA__PROPRIO": ["robot_states"],
    "FLOW__PROJECTOR": 32,
    "FLOW__HIDDEN": 32,
    "FLOW__LAYERS": 1,
    "FLOW__HEADS": 2,
    "FLOW__MLP": 32,
    "FLOW__HEAD_LAYERS": 1,
    "FLOW__DRAWS": 16,
    "FLOW__STEPS": 10,
}
KINDS = {"text": {}, "flow": FLOW}
STATE = {"parts": {"robot_states": 9}, "mean": [0.0] * 9, "std": [1.0] * 9, "min": [-3.0] * 9, "max": [3.0] * 9}
STATS = {**ACTION_STATS, "proprio": STATE}
PICTURES = ("agentview black", "eye_in_hand black", "all pictures black", "pictures of another frame")


OPTS = {
    "IMAGE__CROP": 1.0,
    "IMAGE__BRIGHTNESS": 0.0,
    "IMAGE__CONTRAST": 0.0,
    "ACTION__MASK_MAX": 0.0,
    "TRAIN__max_steps": 200,
    "TRAIN__batch_size": 8,
    "TRAIN__log_every": 5,
}
RATES = {"text": 0.003, "flow": 0.006}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Four demos that can be learned by heart in seconds: each keeps to one action, a stripe says which."""
    folder = tmp_path_factory.mktemp("demos")
    for number, instruction in enumerate(("pick up the stripe", "leave it where it is")):
        path = folder / f"{number}.hdf5"
        write_synthetic_demo_file(path, 2, 5, 64, seed=10 * number, instruction=instruction)
        with h5py.File(path, "r+") as file:
            for demo, sign in (("demo_0", 1), ("demo_1", -1)):
                file[f"data/{demo}/actions"][:, 1:6] = sign * np.array([0.5, 0.4, 0.3, 0.2, 0.1])
    return folder


def overfit(demos, count, out, kind, **more):
    """The exit code of the command."""
    opts = [str(part) for part in tiny_opts(**{**OPTS, "TRAIN__lr": RATES[kind], **KINDS[kind], **more})]
    command = ["--overfit", str(count), "--cfg", str(ROOT / "configs/tiny.yaml"), "--data", str(demos)]
    try:
        main([*command, "--out", str(out), "--num_frames", "4", "--threshold", "0.04", *opts])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module", params=KINDS)
def learned(request, demos, tmp_path_factory):
    """(kind, folder of an --overfit on two demos, its exit code), for either kind of policy."""
    out = tmp_path_factory.mktemp(request.param) / "out"
    return request.param, out, overfit(demos, 2, out, request.param)


def read(out):
    """(diagnosis.json of a folder, its verdicts as {words up to a colon: (level, text)})."""
    tree = json.loads((out / "diagnosis.json").read_text())
    return tree, {one["text"].partition(":")[0]: (one["level"], one["text"]) for one in tree["verdicts"]}


def diagnosis(run, demos, out):
    """What the command writes about a run, as `read` gives it."""
    main(["--model_path", str(run), "--data", str(demos), "--out", str(out), "--num_frames", "2", "--num_demos", "1"])
    return read(out)


def changed(run, change, folder):
    """A copy of a run's last model with other weights, as a run folder."""
    model, cfg, extras = load_model_folder(run)
    with torch.no_grad():
        change(model)
    save_model_folder(folder / "run" / "last" / "model", model, cfg, extras["action_stats"], extras["data_info"])
    return folder / "run"


def make_run(folder, change=lambda model: None, **opts):
    """A run folder of a random tiny model."""
    cfg = tiny_cfg(**opts)
    torch.manual_seed(0)
    model = build_policy(cfg, build_encoder(cfg, STATS)).eval()
    change(model)
    save_model_folder(folder / "run" / "last" / "model", model, cfg, STATS, {"render": "fast", "resolution": 64})
    return folder / "run"


@pytest.mark.slow
def test_a_policy_that_learned_two_demos_by_heart(learned):
    kind, out, code = learned
    tree, found = read(out)
    assert code == 0
    assert tree["overfit"]["last_loss"] < 0.25 * tree["overfit"]["first_loss"]
    assert tree["open_loop"]["mae_share"] < 0.04 and len(tree["open_loop"]["demos"]) == 2
    assert found["open loop follows the demos"][0] == "ok" and tree["open_loop"]["unreadable"] == 0
    for name in ("all pictures black", "pictures of another frame"):
        assert found[name][0] == "ok" and "noticed" in found[name][1]
        assert tree["variants"][name]["answer"] > 0.01
    for name in ("no instruction", "another instruction"):
        assert tree["variants"][name]["change"] > 0
    assert tree["conditions"]["frames of two demos"]["change"] > tree["conditions"]["frames of one demo"]["change"]
    assert found["no adapters"][0] == "-"
    taken = "not taken" not in found["proprio zero"][1]
    assert taken == (kind == "flow") == (tree["variants"]["proprio zero"].get("answer") is not None)
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["answers.png", "conditions.png", "open_loop_00_demo_0.png", "open_loop_01_demo_1.png"]


@pytest.mark.slow
def test_a_training_that_learned_nothing_is_told(demos, tmp_path, capsys):
    assert overfit(demos, 2, tmp_path / "out", "text", TRAIN__max_steps=5) == 1
    assert "the loss did NOT collapse" in capsys.readouterr().out
    tree, _ = read(tmp_path / "out")
    assert [one["level"] for one in tree["overfit"]["verdicts"]] == ["LOOK", "LOOK"]
    assert overfit(demos, 2, tmp_path / "out", "text") == 2  # where a run is, no other begins
    assert "choose another --out" in capsys.readouterr().err


def go_blind(model):
    """Every picture becomes the same tokens."""
    last = model.backbone.model.visual.merger.mlp[-1]
    last.weight.zero_()
    last.bias.zero_()


@pytest.mark.slow
def test_a_blind_policy_is_called_blind(learned, demos, tmp_path):
    out = learned[1]
    tree, found = diagnosis(changed(out / "run", go_blind, tmp_path), demos, tmp_path / "out")
    for name in PICTURES:
        assert found[name][0] == "LOOK" and "BLIND" in found[name][1], name
        assert tree["variants"][name]["answer"] == tree["variants"][name]["change"] == 0
    assert tree["conditions"]["frames of one demo"]["change"] < 1e-6
    assert tree["verdicts"][0]["level"] == "LOOK" and "pictures do not reach it" in tree["verdicts"][0]["text"]


def louder(model):
    """A new expert answers every input alike, as its velocity is 0: give all weights some size."""
    noise = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.25)


def deaf(model):
    louder(model)
    model.action_expert.expert.proprio[-1].weight.zero_()


@pytest.mark.slow
def test_whether_the_state_is_used(demos, tmp_path):
    start = make_run(tmp_path, **FLOW)
    for name, change, level in (("louder", louder, "ok"), ("deaf", deaf, "LOOK")):
        _, found = diagnosis(changed(start, change, tmp_path / name), demos, tmp_path / name / "out")
        assert found["proprio zero"][0] == found["proprio of another frame"][0] == level
        assert ("BLIND" in found["proprio zero"][1]) == (name == "deaf")
        assert found["no instruction"][0] == found["all pictures black"][0] == "ok"


@pytest.mark.slow
def test_a_view_that_only_the_data_has_is_not_taken(demos, tmp_path):
    run = make_run(tmp_path, DATA__VIEWS=["eye_in_hand"])
    tree, found = diagnosis(run, demos, tmp_path / "out")
    assert found["agentview black"] == ("-", "agentview black: not taken")
    assert found["views swapped"] == ("-", "views swapped: one view only")
    assert tree["variants"]["eye_in_hand black"]["change"] > 0


# ------------------------------------------------------------------------------------------------ adapters


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_adapters(kind, base, demos, tmp_path):
    opts = lora_opts(base, **KINDS[kind])
    for name, change in (("new", lambda model: None), ("trained", train_adapter)):
        tree, found = diagnosis(make_run(tmp_path / name, change, **opts), demos, tmp_path / name)
        (level, text) = next(value for key, value in found.items() if key.startswith("adapters"))
        norms = tree["adapters"]["b_norms"].values()
        if name == "new":
            assert level == "LOOK" and "NOT APPLIED" in text and not any(norms)
            assert tree["adapters"]["change"] == tree["adapters"]["answer"] == 0
        else:
            assert level == "ok" and "adapters applied" in text and all(norms)
            assert tree["adapters"]["change"] > 0.02


def test_trained_adapters_that_nobody_calls_are_not_applied(base, demos, tmp_path):
    """The fault of the document: adapters trained, saved, loaded, and left out of the forward pass."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    policy = Policy.from_checkpoint(make_run(tmp_path, train_adapter, **lora_opts(base)), "cpu")
    layers = [module for module in policy.model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    tree = report(diagnose(policy, dataset_of(demos), ACTION_STATS, num_demos=1, num_frames=2, seed=0))
    texts = [one["text"] for one in tree["verdicts"] if one["text"].startswith("adapters")]
    assert len(texts) == 1 and "NOT APPLIED" in texts[0] and all(tree["adapters"]["b_norms"].values())
    assert all(layer.disable_adapters for layer in layers)  # left as found


def test_held_out_demos_alone(demos, tmp_path, capsys):
    files = sorted(map(str, demos.glob("*.hdf5")))
    run = make_run(tmp_path, DATA__VAL_SHARE=0.5, DATA__FILES=files)
    info, cfg = run / "last/model/data_info.json", read_model_cfg(run / "last/model")
    data = load_data(cfg)
    info.write_text(json.dumps(data.info))
    command = ["--model_path", str(run), "--out", str(tmp_path / "out"), "--num_frames", "4", "--held_out", "--data"]
    main([*command, str(demos)])
    assert "2 of 2 demos that training held out, 4 frames" in capsys.readouterr().out
    played = [(one["file"], one["demo"]) for one in read(tmp_path / "out")[0]["open_loop"]["demos"]]
    assert played == [(str(rows.file.path), rows.name) for rows in data.valid.demos]
    for told, entry, words in (
        (data.info, files[0], "--data is not what "),
        ({**data.info, "fingerprint": "0"}, str(demos), "--data is not what "),
        ({**data.info, "num_valid_demos": 0}, str(demos), "was trained on all demos of its data"),
    ):
        info.write_text(json.dumps(told))
        with pytest.raises(SystemExit, match="2"):
            main([*command, entry])
        assert words in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ numbers


def dataset_of(demos, horizon=2):
    paths = sorted(demos.glob("*.hdf5"))
    return DemoDataset(paths, ["agentview", "eye_in_hand"], horizon)


class Scripted:
    """A Policy that looks nothing up but answers from the recorded demos: `answer(chunk)` of the chunk that follows."""

    horizon, action_dim, batch_rows, device = 4, 7, 3, torch.device("cpu")
    views, proprio = ("agentview", "eye_in_hand"), {}

    def __init__(self, dataset, answer, form=None):
        self.dataset, self.answer, self.unreadable = dataset, answer, 0
        self.form = form or ActionForm(7)
        self.model = self.encoder = self

    def named_parameters(self):
        return []

    def encode(self, observation):
        return torch.from_numpy(observation["views"]["agentview"].astype(np.float32))

    def collate(self, features):
        return {"pictures": torch.stack(features)}

    def condition(self, batch):
        return batch["pictures"].flatten(1)

    def predict(self, observations):
        return self.predict_detailed(observations).chunk

    def predict_detailed(self, observations, origins=None):
        chunks = []
        for observation in observations:
            _, number, frame = (*observation["random_key"], 0, 0)[:3]
            rows = self.dataset.demos[number].actions
            chunks.append(self.answer(rows[np.minimum(np.arange(frame, frame + 4), len(rows) - 1)]))
        valid = np.full(len(chunks), self.unreadable == 0)
        return Prediction(np.stack(chunks).astype(np.float32), valid, ~valid, [""] * len(chunks))


def test_open_loop_and_range_by_hand(demos):
    """Off by a tenth of the range in dimension 2, right elsewhere; the last chunk of 5 frames is cut to one action."""
    dataset = dataset_of(demos, horizon=4)
    actions = dataset.all_actions()
    span = actions.max(0) - actions.min(0)

    def shifted(chunk):
        return chunk + np.eye(7)[2] * span[2] * 0.1

    d = diagnose(Scripted(dataset, shifted), dataset, ACTION_STATS, num_demos=4, num_frames=8, seed=5)
    tree = report(d)
    loop = tree["open_loop"]
    assert [one["demo"] for one in loop["demos"]] == ["demo_0", "demo_1"] * 2 and loop["queries"] == 4 * 2
    assert d.open_loop[0].starts == [0, 4]
    np.testing.assert_allclose(loop["mae"], np.eye(7)[2] * span[2] * 0.1, atol=1e-6)
    assert loop["mae_share_per_dimension"][2] == pytest.approx(0.1, abs=1e-5)
    assert loop["mae_share_per_dimension"][6] is None  # a gripper that never moves has no range
    assert loop["mae_share"] == pytest.approx(0.1 / 6, abs=1e-5)
    outside = (actions[:, 2] + 0.1 * span[2] > actions[:, 2].max() + 0.05 * span[2]).mean()
    assert outside > 0 and tree["actions"]["outside"][2] == pytest.approx(outside)
    assert tree["actions"]["predicted_max"][2] == pytest.approx(actions[:, 2].max() + 0.1 * span[2], rel=1e-5)
    assert tree["actions"]["spread"][:6] == pytest.approx([1] * 6, rel=1e-4)
    named = dataclasses.replace(d, names=tuple("abcdefg"))
    for one, title in ((d, "dim 2: off by "), (named, "dim 2, c\noff by ")):
        panel = open_loop_figure(one.open_loop[0], one).axes[2]
        assert panel.get_title().startswith(title) and "10.0% of the range" in panel.get_title()
    texts = " ".join(one["text"] for one in tree["verdicts"])
    assert "open loop follows the demos" in texts and "dim 2" in texts


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda chunk: np.zeros_like(chunk), "spread otherwise"),
        (lambda chunk: 10 * chunk, "outside the data's range"),  # not brought back to the robot's units
        (lambda chunk: 0 * chunk + 0.5, "does NOT follow"),
    ],
)
def test_wrong_actions_are_told(demos, answer, words):
    dataset = dataset_of(demos, horizon=4)
    tree = report(diagnose(Scripted(dataset, answer), dataset, ACTION_STATS, num_demos=2, num_frames=4, seed=0))
    assert any(one["level"] == "LOOK" and words in one["text"] for one in tree["verdicts"])


def test_rotations_are_compared_whatever_side_they_are_written_from(demos):
    """The recorded ones, written from the other side of half a turn: of every second answer of an observation."""
    dataset, asked = dataset_of(demos, horizon=4), []

    def turned(chunk):
        asked.append(None)
        angle = np.linalg.norm(chunk[:, 3:6], axis=1, keepdims=True)
        other = chunk[:, 3:6] * (1 - 2 * np.pi / angle)
        return np.hstack([chunk[:, :3], other if len(asked) % 2 else chunk[:, 3:6], chunk[:, 6:]])

    form = ActionForm(7, rotations=(3,), written="6d_columns")
    d = diagnose(Scripted(dataset, turned, form), dataset, ACTION_STATS, num_demos=1, num_frames=3, seed=0)
    np.testing.assert_allclose(d.open_loop[0].predicted, d.open_loop[0].recorded, atol=1e-5)
    varied = [variant for variant in d.variants if not variant.why_not]
    assert len(varied) > 3 and all(np.abs(variant.chunks - d.chunks).max() < 1e-5 for variant in varied)


def test_unreadable_answers_and_other_statistics_are_told(demos):
    dataset = dataset_of(demos, horizon=4)
    policy = Scripted(dataset, lambda chunk: chunk)
    policy.unreadable = 1
    narrow = {**ACTION_STATS, "min": [-0.1] * 7, "max": [0.1] * 6 + [1.0]}
    tree = report(diagnose(policy, dataset, narrow, num_demos=2, num_frames=4, seed=0))
    texts = [one["text"] for one in tree["verdicts"] if one["level"] == "LOOK"]
    assert any(text.startswith("4 of 4 answers were no actions") for text in texts)
    assert any("leaves the range that the checkpoint was trained with: dim 0, dim 1" in text for text in texts)


def test_comparing_conditions_by_hand():
    vectors = np.array([[100.0, 1.0, 0.0], [100.0, -1.0, 0.0], [100.0, 0.0, 2.0]])
    raw, centred, change = similarities(vectors)
    assert raw.min() > 0.999 and np.diag(raw) == pytest.approx([1, 1, 1])
    assert centred[0, 1] == pytest.approx((-1 + (2 / 3) ** 2) / (1 + (2 / 3) ** 2))
    assert change[0, 1] == pytest.approx(2 / np.linalg.norm(vectors[0]))
    assert cosine(np.zeros(3), vectors[0]) == 0 and relative_change(np.zeros(3), np.zeros(3)) == 0


# ------------------------------------------------------------------------------------------------ overfit


def test_overfit_verdicts():
    assert [level for level, _ in verdicts(2.0, 0.1, 0.019, 0.02)] == ["ok", "ok"]
    assert [level for level, _ in verdicts(2.0, 0.6, 0.021, 0.02)] == ["LOOK", "LOOK"]
    assert [level for level, _ in verdicts(2.0, float("nan"), float("nan"), 0.02)] == ["LOOK", "LOOK"]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "more, message",
    [
        (["--data", "nowhere", "--overfit", "1", "--cfg", "TINY"], "nowhere does not exist"),
        (["--data", ".", "--overfit", "1", "--cfg", "TINY"], "no *.hdf5 or *.h5 file"),
        (["--data", "DEMOS"], "give --model_path"),
        (["--data", "DEMOS", "--model_path", "nowhere"], "does not exist"),
        (["--data", "DEMOS", "--model_path", "nowhere", "TRAIN.lr", "1"], "give --model_path"),
        (["--data", "DEMOS", "--overfit", "2"], "--cfg"),
        (["--data", "DEMOS", "--overfit", "2", "--cfg", "nowhere.yaml"], "does not exist"),
        (["--data", "DEMOS", "--overfit", "9", "--cfg", "TINY"], "hold 4"),
        (["--data", "DEMOS", "--model_path", "nowhere", "--num_frames", "0"], "--num_frames"),
        (["--data", "DEMOS", "--model_path", "nowhere", "--seed", "-1"], "--seed"),
    ],
)
def test_bad_commands_are_one_line(more, message, demos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"DEMOS": str(demos), "TINY": str(ROOT / "configs/tiny.yaml")}
    with pytest.raises(SystemExit) as stop:
        main([names.get(word, word) for word in more])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and message in lines[0]
