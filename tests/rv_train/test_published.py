"""A policy by its name on the hub: what is fetched, what is not, what a cache is good for, and how it is refused."""

import numpy as np
import pytest
import torch

from libs.errors import BadInput
from libs.hub import is_hub_id
from rv_eval.policy import Policy, model_fingerprint
from rv_train.backbones import family_of
from rv_train.backbones.folders import find_weights
from rv_train.backbones.loading import build_backbone, check_weights
from rv_train.checkpoint import find_model_folder
from rv_train.policies import build_encoder, build_policy
from rv_train.prepare import prepare_run
from rv_train.sanity import sanity_forward
from tests.demo_files import write_synthetic_demo_file
from tests.fake_hub import TOKEN, fake_hub
from tests.tiny import make_tiny_checkpoint, tiny_cfg, tiny_model
from tools.evaluation import run_name

NAME = "somebody/vla0-tiny"
FILES = ("vla_config.yaml", "data_info.json", "action_stats.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("run")) / "last/model"


@pytest.fixture
def hub(tmp_path):
    with fake_hub(tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def logged_in(tmp_path):
    with fake_hub(tmp_path / "cache", TOKEN) as hub:
        yield hub


def refused(name):
    with pytest.raises(BadInput) as caught:
        find_model_folder(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_only_what_a_policy_needs_is_fetched_and_once(hub, model):
    more = {
        "README.md": b"card",
        "demo.mp4": b"film",
        "step_00000001/trainer.pt": b"state",
        "old/model.safetensors": b"",
    }
    hub.put(NAME, model, more)
    folder = find_model_folder(NAME)
    assert sorted(hub.downloads()) == sorted(path.name for path in model.iterdir())
    assert model_fingerprint(folder) == model_fingerprint(model)
    assert run_name(folder) == run_name(NAME) == run_name(f"{NAME}@main") == "vla0-tiny"
    hub.asked.clear()
    assert find_model_folder(NAME) == folder and hub.downloads() == []


def test_it_answers_as_the_folder_does_and_in_a_run_folder_form_too(hub, model):
    seen = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    views = dict(zip(tiny_cfg().DATA.VIEWS, seen, strict=True))
    asked = [{"views": views, "instruction": "push"}]
    wanted = Policy.from_checkpoint(model).predict_detailed(asked)
    hub.put(NAME, model)
    hub.put("somebody/run", None, {f"model/{path.name}": path.read_bytes() for path in model.iterdir()})
    for name in (NAME, "somebody/run"):
        np.testing.assert_array_equal(Policy.from_checkpoint(name).predict(asked), wanted.chunk)


def test_a_newer_version_is_taken_and_an_older_one_by_its_revision(hub, model):
    first = hub.put(NAME, model).newest
    old = find_model_folder(NAME)
    newer = hub.put(NAME, model, {"data_info.json": b'{"render": "standard"}'}).newest
    assert find_model_folder(NAME).name == newer
    assert find_model_folder(f"{NAME}@{first}") == old
    assert "has no revision v9 of model somebody/vla0-tiny" in refused(f"{NAME}@v9")


def test_what_is_cached_needs_no_hub(hub, model):
    commit = hub.put(NAME, model).newest
    folder = find_model_folder(NAME)
    hub.failing["."] = 503
    for name in (NAME, f"{NAME}@{commit}"):
        assert find_model_folder(name) == folder
    (folder / "model.safetensors").unlink()
    message = refused(NAME)
    assert message.startswith(f"model {NAME} is neither a folder nor whole in the local cache, and the hub cannot be")


def test_without_a_network_and_offline(hub, model, monkeypatch):
    hub.put(NAME, model)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "neither a folder nor whole in the local cache" in refused(NAME) and not hub.asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refused(NAME)


def test_a_connection_that_breaks_while_it_downloads(hub, model):
    hub.put(NAME, model)
    hub.failing["GET .*model.safetensors"] = 500
    assert "the hub cannot be reached" in refused(NAME)


def test_what_the_hub_does_not_have_or_keeps(hub, model):
    assert "the hub has no model somebody/nothing" in refused("somebody/nothing")
    hub.put("somebody/private", model, private=True)
    assert "this needs a login (`hf auth login`" in refused("somebody/private")
    hub.put("somebody/gated", model, gated=True)
    assert "only to those who asked for it" in refused("somebody/gated")
    assert "no name of the hub" in refused("some--body/x")


def test_a_login_opens_what_is_private_and_a_wrong_one_is_told(logged_in, model, monkeypatch):
    logged_in.put("somebody/private", model, private=True)
    assert find_model_folder("somebody/private").is_dir()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "this needs another login" in refused("somebody/private")


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (
            dict.fromkeys(("model.safetensors", "config.json"), b""),
            f"it lacks {', '.join(FILES)}. What it holds: config",
        ),
        (dict.fromkeys(FILES, b""), "lacks weights (*.safetensors)"),
        ({"runs/vla0/model.safetensors": b""}, "weights (*.safetensors). What it holds: runs/vla0/model.safetensors"),
    ],
)
def test_what_is_no_policy_is_not_downloaded(files, lacks, hub):
    hub.put(NAME, None, files)
    assert lacks in refused(NAME)
    assert hub.downloads() == []


def test_what_stands_here_is_never_asked_for(hub, model, tmp_path, monkeypatch):
    hub.put("runs/mine", model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    assert "runs/mine holds no model" in refused("runs/mine")
    assert refused("runs/mime") == "model path runs/mime does not exist"  # a typing error
    for name in ("nowhere", "a/b/c", str(tmp_path / "no")):
        assert not is_hub_id(name) and "does not exist" in refused(name)
    assert hub.asked == []


def test_weights_of_a_recipe_are_fetched_alike(hub, model):
    first = hub.put("lab/vlm", model, {"onnx/config.json": b"{}", "model_card.txt": b""}).newest
    hub.put("lab/vlm", None, {"config.json": b"{}"})
    name = f"lab/vlm@{first}"
    cfg = tiny_cfg(MODEL__INIT="pretrained", MODEL__PATH=name, MODEL__TOKENIZER=str(model), MODEL__VOCAB_CUT=0)
    assert find_weights(name) == (None, False)
    check_weights(cfg, family_of(cfg))
    assert hub.downloads() == []
    tokenizer = tiny_model(tiny_cfg()).prompt.tokenizer
    backbone = build_backbone(cfg, family_of(cfg), tokenizer)
    assert backbone.config.text_config.hidden_size == 32
    assert "model.safetensors" in hub.downloads() and "onnx/config.json" not in hub.downloads()
    assert find_weights(name)[1]
    hub.asked.clear()
    build_backbone(cfg, family_of(cfg), tokenizer)
    assert hub.asked == []
    for missing, says in [("lab/none", "the hub has no model lab/none"), ("lab/vlm@v2", "no revision v2")]:
        cfg = tiny_cfg(MODEL__INIT="pretrained", MODEL__PATH=missing, MODEL__TOKENIZER=str(model), MODEL__VOCAB_CUT=0)
        with pytest.raises(BadInput, match=f"^MODEL.PATH: {missing} is neither a folder with weights nor.*{says}"):
            check_weights(cfg, family_of(cfg))


@pytest.mark.parametrize("begin", [prepare_run, sanity_forward])
def test_weights_that_are_not_here_yet_bring_their_tokenizer_too(begin, hub, model, tmp_path):
    """It is looked for in the cache: one of other ids would be taken, and the weights that come then be refused."""
    hub.put("lab/vlm", model)
    demos = tmp_path / "a_demo.hdf5"
    write_synthetic_demo_file(demos, num_demos=1, num_frames=5, resolution=64, seed=0)
    weights = {"MODEL__INIT": "pretrained", "MODEL__PATH": "lab/vlm", "MODEL__VOCAB_CUT": 0}
    cfg = tiny_cfg(**weights, DATA__FILES=[str(demos)], EXP__DIR=str(tmp_path / "runs"))
    begin(cfg, torch.device("cpu"), *([1] if begin is prepare_run else []))
    assert "model.safetensors" in hub.downloads() and find_weights("lab/vlm")[1]
    encoder = build_encoder(cfg)
    assert len(encoder.prompt.tokenizer) < 1000, "the cut vocabulary, not Qwen2.5's own"
    hub.asked.clear()
    build_policy(cfg, encoder)
    assert hub.asked == []
