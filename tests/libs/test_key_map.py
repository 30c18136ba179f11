"""Key maps: those of this project say what files hold, and a broken one is named with what is wrong."""

import copy
import json
import pickle

import h5py
import pytest

from libs.demo_hdf5 import LIBERO, KeyMap
from libs.demo_hdf5.key_map import shipped
from tests.demo_files import write_synthetic_demo_file
from tests.tiny import ROOT


def test_the_maps_are_there_and_under_configs_too():
    assert shipped() == ["aloha", "isaac_cosmos", "libero", "robomimic"]
    for name in shipped():
        key_map = KeyMap.find(name)
        assert key_map.name == name and key_map.about
        assert KeyMap.find(ROOT / f"configs/key_maps/{name}.json") == key_map
        assert pickle.loads(pickle.dumps(key_map)) == key_map
    assert KeyMap.find("libero") == LIBERO != KeyMap.find("robomimic")


def test_isaac_cosmos_gives_the_27_numbers_in_their_order():
    key_map = KeyMap.find("isaac_cosmos")
    assert {part: place.dim for part, place in key_map.proprio.items()} == {
        "joint_pos": 9,
        "joint_vel": 9,
        "eef_pos": 3,
        "eef_quat": 4,
        "gripper_pos": 2,
    }
    assert key_map.dim(key_map.proprio) == 27 and key_map.dim(["eef_quat", "eef_pos"]) == 7 and key_map.dim([]) == 0
    assert key_map.main_view == "table_cam" and key_map.actions == ("actions", 7) and not key_map.upside_down


def test_liberos_map_is_what_the_writer_writes(tmp_path):
    write_synthetic_demo_file(tmp_path / "demo.hdf5", 1, 3, 16, seed=0)
    with h5py.File(tmp_path / "demo.hdf5") as file:
        group = file["data/demo_0"]
        shapes = {key: group[key].shape for key, _ in (LIBERO.actions, *LIBERO.proprio.values())}
        assert shapes == {key: (3, dim) for key, dim in (LIBERO.actions, *LIBERO.proprio.values())}
        assert {group[key].shape for key in LIBERO.views.values()} == {(3, 16, 16, 3)}
        assert set(group["obs"]) == {key.removeprefix("obs/") for key in (*LIBERO.views.values(), *shapes)} - {
            "actions",
            "robot_states",
        }


def test_unknown_names_are_answered_with_the_known_ones():
    for call, message in (
        (lambda: KeyMap.find("droid"), "no key map 'droid': there are aloha, isaac_cosmos, libero, robomimic"),
        (lambda: KeyMap.find("no/such.json"), "no/such.json does not exist"),
        (lambda: KeyMap.find("such.json"), "such.json does not exist"),
        (
            lambda: LIBERO.check_views(["agentview", "wrist"]),
            "libero has no view 'wrist'; it has agentview",
        ),
        (lambda: LIBERO.dim(["eef_pos"]), "libero has no proprio part 'eef_pos'; it has robot_states, ee_states"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_name_does_not_matter_the_content_does(tmp_path):
    tree = json.loads((ROOT / "configs/key_maps/libero.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps({**tree, "about": "a copy"}))
    assert KeyMap.find(tmp_path / "mine.json") == LIBERO
    tree["views"]["agentview"] = "obs/front"
    (tmp_path / "mine.json").write_text(json.dumps(tree))
    assert KeyMap.find(tmp_path / "mine.json") != LIBERO


def entry(*path):
    """Change one entry of a good map; the last of `path` is its value, a missing value removes it."""

    def change(tree):
        *groups, name, value = path
        for group in groups:
            tree = tree[group]
        if value is None:
            del tree[name]
        else:
            tree[name] = value

    return change


BROKEN = {
    "the map: no entry 'views'": entry("views", None),
    "the map: unknown entry 'cameras'": entry("cameras", {}),
    "upside_down must be true or false, got 'no'": entry("upside_down", "no"),
    "about must be text, got 3": entry("about", 3),
    "views must be an object of names, got \\['obs/a'\\]": entry("views", ["obs/a"]),
    "views needs at least one camera": entry("views", {}),
    "views: 'a/b' is no name": entry("views", "a/b", "obs/a"),
    "views: agentview: a key is a path below a demo .*, got '/obs/a'": entry("views", "agentview", "/obs/a"),
    "views: agentview: a key is a path .*, got '../a'": entry("views", "agentview", "../a"),
    "views: agentview: a key is a path .*, got 3": entry("views", "agentview", 3),
    "proprio: ee_pos: no entry 'dim'; it has key, dim": entry("proprio", "ee_pos", "dim", None),
    "proprio: ee_pos: dim must be a whole number above 0, got 0": entry("proprio", "ee_pos", "dim", 0),
    "proprio: ee_pos: dim must be a whole number above 0, got True": entry("proprio", "ee_pos", "dim", True),
    "actions must be an object with key, dim, got 'actions'": entry("actions", "actions"),
    "actions: dim must be a whole number above 0, got 7.5": entry("actions", "dim", 7.5),
    "instruction: text must be text, got 5": entry("instruction", "text", 5),
    "instruction: json_key needs an attribute": entry("instruction", "attribute", ""),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_map_is_named(tmp_path, message):
    path = tmp_path / "mine.json"
    tree = json.loads((ROOT / "configs/key_maps/libero.json").read_text())
    path.write_text(json.dumps(tree))
    assert KeyMap.load(path) == LIBERO
    changed = copy.deepcopy(tree)
    BROKEN[message](changed)
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=rf"key map .*mine\.json: {message}"):
        KeyMap.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("\xff\xfe", "is not a text file"),
        ('{"views": {}, "views": {}}', ": 'views' stands there twice"),
    ],
    ids=["half", "empty", "deep", "binary", "repeated"],
)
def test_what_is_not_json_cannot_be_read(tmp_path, text, message):
    (tmp_path / "mine.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"mine\.json ?{message}"):
        KeyMap.load(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="cannot be read"):
        KeyMap.load(tmp_path)
