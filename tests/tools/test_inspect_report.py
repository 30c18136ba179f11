"""`tools/inspect_demos.py --report`: one page for any kind of demonstrations, that loads nothing and plays them."""

import contextlib
import json
import re

import h5py
import numpy as np
import pytest

from libs.lerobot_data import SetWriter, write_episode
from tests.browser import chromium, requests
from tests.demo_files import write_synthetic_demo_file, write_synthetic_isaac_file
from tests.lerobot_sets import made_frames, made_spec
from tests.tiny import ROOT
from tools.inspect_demos import main
from tools.inspection import anything

SET = ROOT / "tests/data/lerobot/v30/so_like"


def page_of(entry, tmp_path, *more):
    path = tmp_path / "page.html"
    main([str(entry), "--report", str(path), *more])
    return path, path.read_text()


def shown(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_what_a_page_of_hdf5_demos_holds(tmp_path):
    write_synthetic_demo_file(tmp_path / "demo.hdf5", 3, 6, 64, seed=0)
    _, text = page_of(tmp_path / "demo.hdf5", tmp_path, "--num_demos", "2")
    demos = shown(text)
    assert [demo["name"] for demo in demos] == ["demo.hdf5 demo_0", "demo.hdf5 demo_2"]
    for demo in demos:
        assert all(len(values) == 6 for values in [*demo["actions"].values(), *demo["state"].values()])
        assert [len(views) for views in demo["pictures"].values()] == [6, 6]
        assert all(len(line.split()) == 7 and 0 <= int(line.split()[0]) <= 1000 for line in demo["integers"])
    x = np.array(demos[0]["actions"]["x"])
    assert np.argmax(x) == np.argmax([int(line.split()[0]) for line in demos[0]["integers"]])


def test_a_page_is_read_by_the_key_map_that_fits(tmp_path):
    write_synthetic_isaac_file(tmp_path / "stack.hdf5", 1, 3, 32, seed=0)
    _, text = page_of(tmp_path / "stack.hdf5", tmp_path)
    assert list(shown(text)[0]["pictures"]) == ["table_cam", "wrist_cam"]


def test_instructions_that_begin_no_demo_are_listed_too(tmp_path):
    spec = made_spec(size=(32, 32))
    with SetWriter(tmp_path / "set", spec, 1) as writer:
        frames = made_frames(0, 5, (32, 32), ["open it"] * 3 + ["close it"] * 2)
        write_episode(writer.part(0), spec, 0, frames)
        writer.finish()
    _, text = page_of(tmp_path / "set", tmp_path)
    assert "<td>open it</td><td>1</td><td>5</td>" in text and "<td>close it</td>" in text


def test_numbers_have_the_names_that_the_data_gives_them(tmp_path):
    _, text = page_of(SET, tmp_path)
    joints = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
    assert list(shown(text)[0]["actions"]) == [f"{joint}.pos" for joint in joints]
    assert "<th>5: gripper.pos</th>" in text


def test_what_is_odd_is_said_and_nothing_of_the_data_becomes_markup(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 2, 6, 64, seed=0)
    _, text = page_of(path, tmp_path, "--instruction", "<b>push</b> </script>")
    assert "&lt;b&gt;push&lt;/b&gt; &lt;/script&gt;" in text and "<b>push" not in text


def test_wild_values_are_marked(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 4, 60, 16, seed=0)
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][3, 1] = 50.0
    _, text = page_of(path, tmp_path, "--num_demos", "1")
    assert len(re.findall("<tr class=squeezed><th>1: y</th>", text)) == 1 and text.count("class=squeezed") == 1
    assert re.search(r'class="remark">[^<]*demo_0[^<]*frame 3[^<]*and answers are no finer', text)
    assert "Training takes this as it is" in text and "Training refuses" not in text


def test_every_picture_is_checked_once(tmp_path, monkeypatch):
    """What --verify found is on the page, and is not looked for again; without it the page looks itself."""
    read = []
    check = anything.picture_problems
    monkeypatch.setattr(anything, "picture_problems", lambda data: read.append(len(data)) or [*check(data), "<broken>"])
    for more, says in [((), None), (("--verify",), 1)]:
        read.clear()
        path = tmp_path / "page.html"
        with pytest.raises(SystemExit, match=str(says)) if says else contextlib.nullcontext():
            main([str(SET), "--report", str(path), *more])
        assert len(read) == 1 and path.read_text().count("&lt;broken&gt;") == 1


def test_pictures_of_a_file_that_was_verified_are_not_checked_again(tmp_path, monkeypatch):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 2, 6, 64, seed=0)
    with h5py.File(path, "r+") as file:
        file["data/demo_1/obs/agentview_rgb"][2] = 0
    monkeypatch.delattr(anything, "picture_problems")
    with pytest.raises(SystemExit, match="1"):
        page_of(path, tmp_path, "--verify")
    problems = re.findall(r'class="problem">([^<]*)', (tmp_path / "page.html").read_text())
    assert any(f"{path}, demo_1" in line and "agentview" in line for line in problems), problems


def test_a_page_is_refused_where_it_cannot_be(tmp_path, capsys):
    write_synthetic_demo_file(tmp_path / "demo.hdf5", 1, 6, 16, seed=0)
    for arguments, word in [
        ([str(tmp_path / "demo.hdf5"), "--report", str(tmp_path / "page.txt")], ".html"),
        ([str(tmp_path / "demo.hdf5"), str(SET), "--report", str(tmp_path / "page.html")], "one kind"),
    ]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2 and word in capsys.readouterr().err


@pytest.mark.browser
def test_it_plays_in_a_browser(tmp_path):
    path, _ = page_of(SET, tmp_path)
    with chromium(tmp_path / "profile") as browser:
        browser.get("about:blank")
        requests(browser)  # of its first page
        browser.get(path.as_uri())
        at = "return [document.getElementById('integers').textContent, document.querySelector('#pictures img').src]"
        before = browser.execute_script(at)
        browser.find_element("css selector", "body").send_keys("\ue014\ue014")  # right arrow, twice
        after = browser.execute_script(at)
        assert browser.find_element("id", "frame").text.startswith("frame 2 of 12")
        assert before[0] != after[0] and before[1] != after[1]
        browser.find_element("id", "next").click()
        assert browser.find_element("id", "frame").text.startswith("frame 0 of 25")
        assert browser.execute_script("return document.querySelectorAll('#actions polyline').length") == 6
        assert browser.execute_script("return document.getElementById('actions-still').textContent") == ""
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert [address for address in requests(browser) if not address.startswith(("file:", "data:"))] == []
