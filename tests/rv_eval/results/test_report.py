"""The page in a real Chromium; and what of it can be checked without one."""

import base64
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from rv_eval.playing.video import EpisodeFrames, poster_path
from rv_eval.results.comparison import compare
from rv_eval.results.records import ALL_OF_SUITE, wilson_interval
from rv_eval.results.report import write_report
from rv_eval.results.summary import gather
from tests.browser import chromium, requests
from tests.rv_eval.records import plan, record, write, write_quickly

EVIL = (
    "<!--<script </script><script>window.injected = 1</script>"
    "<img src=x onerror='window.injected = 2'> & \"pick\" {{data}}"
)
SOLVED = {("libero_spatial", 0): 5, ("libero_spatial", 1): 2, ("libero_10", 0): 0, ("libero_10", 1): 4}  # of 5


def make_video(path, success):
    frames = EpisodeFrames(every=4, control_hz=20)
    for step in range(0, 41, 4):
        frames.add(step, {"agentview": np.full((64, 64, 3), 5 * step, np.uint8)})
    path.parent.mkdir(parents=True, exist_ok=True)
    frames.write(path, "do it", success, 40)


def make_records(**changes):
    """Five episodes of four tasks; the last so many of each are failures."""
    return [
        record(task_id, init, init < solved, suite, **changes)
        for (suite, task_id), solved in SOLVED.items()
        for init in range(5)
    ]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two runs, with two real videos, a video that is gone, an instruction with markup, and a missing episode."""
    root = tmp_path_factory.mktemp("logs of #1")  # a name that must be quoted in an address
    records = make_records()
    records[-1]["instruction"] = EVIL
    make_video(root / "a" / "videos" / "fails 100%.mp4", False)
    make_video(root / "a" / "videos" / "succeeds.mp4", True)
    by_outcome = sorted(records, key=lambda r: r["success"])
    by_outcome[0]["video"], by_outcome[-1]["video"] = "videos/fails 100%.mp4", "elsewhere/videos/succeeds.mp4"
    by_outcome[1]["video"] = "videos/gone.mp4"
    (root / "a" / "videos" / "succeeds.jpg").unlink()  # from before there were posters
    by_outcome[2]["incidents"], by_outcome[2]["incident_errors"] = 1, ["the renderer died"]
    write(root / "a" / "results.jsonl", records)
    write(root / "a" / "planned.jsonl", [plan(0, range(7), "libero_10")])
    b = make_records(n_action_steps=4)
    b[5] |= {"success": False}
    write(root / "b" / "results.jsonl", b)
    return root


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.get("about:blank")
        yield driver


@pytest.fixture(scope="module")
def report(logs):
    write_report(logs / "a" / "report.html", gather([logs / "a"]))
    return logs / "a" / "report.html"


@pytest.fixture
def page(driver, report):
    """The report, just opened; at the end nothing was complained about and nothing fetched but itself and videos."""
    yield from opened(driver, report)


def opened(driver, report):
    driver.get("about:blank")
    driver.get_log("browser")
    requests(driver)
    driver.set_window_size(1280, 900)
    driver.get(report.as_uri())
    yield driver
    assert driver.get_log("browser") == []
    folder = report.parent.as_uri()
    allowed = (report.as_uri(), f"{folder}/videos/", "data:")
    assert [url for url in requests(driver) if not url.startswith(allowed)] == []


def one(driver, css):
    return driver.find_element(By.CSS_SELECTOR, css)


def every(driver, css):
    return driver.find_elements(By.CSS_SELECTOR, css)


def wait_for(driver, script, *arguments, seconds=8):
    WebDriverWait(driver, seconds, 0.05).until(lambda d: d.execute_script(f"return {script}", *arguments))


def cards(driver):
    """The texts of the cards that pass the filter, in their order."""
    script = "return [...document.querySelectorAll('.episode:not([hidden])')].map(card => card.textContent)"
    return driver.execute_script(script)


def press(driver, key):
    ActionChains(driver).send_keys(key).perform()


# ---- in the browser --------------------------------------------------------------------------------------------


def test_every_task_has_its_bar(page):
    bars = every(page, "a.task")
    found = {(bar.get_attribute("data-suite"), int(bar.get_attribute("data-task"))): bar for bar in bars}
    assert set(found) == set(SOLVED) and len(bars) == 4
    order = [(bar.get_attribute("data-suite"), bar.get_attribute("data-task")) for bar in bars]
    assert order == [("libero_spatial", "1"), ("libero_spatial", "0"), ("libero_10", "0"), ("libero_10", "1")]
    for (suite, task_id), solved in SOLVED.items():
        bar = found[suite, task_id]
        track, fill = (one(bar, css).rect["width"] for css in (".track", ".bar"))
        assert track > 100 and fill == pytest.approx(track * solved / 5, abs=1)
        low, high = wilson_interval(solved, 5)
        interval = one(bar, ".interval").rect  # the first line runs from low to high
        assert interval["x"] - one(bar, ".track").rect["x"] == pytest.approx(track * low, abs=2)
        assert interval["width"] == pytest.approx(track * (high - low), abs=2)
        assert one(bar, ".value").text == f"{solved}/5" and f"{solved} of 5 solved" in bar.get_attribute("title")
        assert (str(task_id) in one(bar, ".label").text and f"do task {task_id}" in bar.text) or task_id == 1


def test_headline_and_notices(page):
    headline = one(page, ".headline.total").text
    assert "55.0 %" in headline and "11 of 20" in headline
    assert [card.text.split()[0] for card in every(page, ".headline")] == ["overall", "libero_spatial", "libero_10"]
    notice = one(page, ".notice.grave")
    assert "MISSING: 2 of 7 planned" in notice.text
    one(notice, "summary").click()
    assert "libero_10 0: init 5-6" in notice.text
    assert "that are not there: 1." in one(page, "#episodes").text


def test_what_it_depends_on_is_shown(page):
    fields = {row.text.split("\n")[0]: row for row in every(page, "#settings .settings > div")}
    assert "8" in fields["n_action_steps"].text and "2.3.7" in fields["versions.mujoco"].text
    assert "several" not in fields["n_action_steps"].get_attribute("class")
    assert not set(fields) & {"tokens", "passes", "success", "steps", "policy_s", "wall_s", "video"}, "results"
    assert fields["max_steps"].text.split("\n")[1:] == ["220 (10)", "520 (10)"]


def test_failures_come_first_and_records_without_video_are_there(page):
    texts = cards(page)
    assert len(texts) == 20
    assert ["failure" in text for text in texts] == [True] * 9 + [False] * 11
    assert sum("no video" in text for text in texts) == 18
    assert len(every(page, ".episode .poster img")) == 2 and not every(page, "video")


def test_the_filter(page):
    def count():
        return one(page, "#count").text

    assert count() == "20 of 20 episodes"
    Select(one(page, "#suite")).select_by_value("libero_10")
    assert count() == "10 of 20 episodes" and all("libero_10" in text for text in cards(page))
    Select(one(page, "#outcome")).select_by_visible_text("failures")
    assert count() == "6 of 20 episodes" and all("failure" in text for text in cards(page))
    Select(one(page, "#task")).select_by_value("libero_10 1")
    assert count() == "1 of 20 episodes"
    one(page, "#reset").click()
    assert count() == "20 of 20 episodes"
    one(page, "#words").send_keys("SPATIAL init 3")
    assert count() == "2 of 20 episodes" and all("libero_spatial" in t and "init 3" in t for t in cards(page))
    one(page, "#words").clear()
    one(page, "#words").send_keys("renderer died")
    assert count() == "1 of 20 episodes"
    one(page, "#words").send_keys(" of boredom")
    assert count() == "0 of 20 episodes" and cards(page) == []


def test_a_bar_leads_to_its_episodes(page):
    one(page, 'a.task[data-suite="libero_10"][data-task="1"]').click()
    assert one(page, "#count").text == "5 of 20 episodes"
    assert Select(one(page, "#task")).first_selected_option.get_attribute("value") == "libero_10 1"


def test_cards_show_posters_and_only_the_viewer_loads_a_video(page):
    for card in every(page, ".episode:has(img)"):
        page.execute_script("arguments[0].scrollIntoView()", card)
        wait_for(page, "arguments[0].querySelector('img').naturalWidth === 320", card)
    fetched = requests(page)
    assert sum(url.endswith(".jpg") for url in fetched) == 2 and not any(url.endswith(".mp4") for url in fetched)
    one(page, ".episode").click()
    wait_for(page, "document.querySelector('#screens video').readyState >= 2")
    assert one(page, "#screens video").get_attribute("poster").endswith("/videos/fails%20100%25.jpg")
    assert any(url.endswith(".mp4") for url in requests(page))


def test_a_poster_that_is_gone_leaves_a_card_that_opens(driver, logs, report):
    poster = logs / "a" / "videos" / "succeeds.jpg"
    content = poster.read_bytes()
    poster.unlink()
    try:
        driver.get(report.as_uri())
        driver.execute_script("document.querySelectorAll('.episode:has(.poster)')[1].scrollIntoView()")
        wait_for(driver, "document.querySelectorAll('.poster img').length === 1")
        driver.execute_script("document.querySelectorAll('.episode:has(.poster)')[1].click()")
        wait_for(driver, "document.querySelector('#screens video').readyState >= 2")
    finally:
        poster.write_bytes(content)


def test_the_viewer_plays_walks_and_closes(page):
    first = one(page, ".episode")
    page.execute_script("arguments[0].scrollIntoView()", first)
    first.click()
    assert one(page, "#viewer").is_displayed()
    wait_for(page, "document.querySelector('#screens video').currentTime > 0.5")
    assert one(page, "#screens video").rect["width"] > 400
    fields = one(page, "#fields").text
    assert "libero_spatial" in one(page, "#viewer-title").text and "steps\n220" in fields and "init_state\n2" in fields
    assert "results.jsonl line 8" in fields
    seen = [one(page, "#viewer-title").text]
    for _ in range(2):
        press(page, Keys.ARROW_RIGHT)
        seen.append(one(page, "#viewer-title").text)
    assert len(set(seen)) == 3 and "no video" in one(page, "#screens").text
    press(page, Keys.ARROW_LEFT)
    press(page, Keys.ARROW_LEFT)
    press(page, Keys.ARROW_LEFT)  # before the first there is nothing
    assert one(page, "#viewer-title").text == seen[0]
    # An arrow key while the video has the focus walks too, and does not move the video.
    page.execute_script("const v = document.querySelector('#screens video'); v.focus(); v.pause(); v.currentTime = 1")
    wait_for(page, "!document.querySelector('#screens video').seeking")
    press(page, Keys.ARROW_LEFT)
    assert page.execute_script("return document.querySelector('#screens video').currentTime") == 1
    press(page, Keys.ARROW_RIGHT)
    assert one(page, "#viewer-title").text == seen[1]
    press(page, Keys.ESCAPE)
    assert not one(page, "#viewer").is_displayed() and not every(page, "#screens video")


def test_the_viewer_walks_through_what_the_filter_leaves(page):
    Select(one(page, "#outcome")).select_by_visible_text("with incidents")
    one(page, ".episode:not([hidden])").click()
    assert not one(page, "#previous").is_enabled() and not one(page, "#next").is_enabled()
    assert "the renderer died" in one(page, "#fields").text


def test_texts_are_never_markup(page):
    one(page, "#words").send_keys("onerror")
    assert len(cards(page)) == 1 and EVIL in cards(page)[0]
    one(page, ".episode:not([hidden])").click()
    assert EVIL in one(page, "#viewer-title").text and EVIL in one(page, "#fields").text
    time.sleep(0.2)  # an image's error would come later
    assert page.execute_script("return window.injected") is None
    assert {picture.get_attribute("src").rpartition("/")[2] for picture in every(page, "img")} == {
        "fails%20100%25.jpg",
        "succeeds.jpg",
    }


def test_what_was_asked_is_told_and_the_matrix_is_painted(driver, tmp_path):
    facts = {"asked_for": ["cup"], "first_moved": "cup", "first_moved_step": 9, "reached": []}
    about = {"asked_task_id": 1, "instructions": ALL_OF_SUITE, "facts": facts}
    records = [record(0, init, False, asked=f"ask {EVIL}", **about) for init in range(2)]
    records.append(record(0, 2, False, asked=f"ask {EVIL}", **about | {"facts": facts | {"first_moved": None}}))
    write(tmp_path / "results.jsonl", records)
    write_report(tmp_path / "report.html", gather([tmp_path]))
    for page in opened(driver, tmp_path / "report.html"):
        assert all(f"ask {EVIL}" in card and "do task 0" not in card for card in cards(page))
        one(page, "#words").send_keys("ask onerror")
        assert len(cards(page)) == 3
        painted = {cell.text: cell.value_of_css_property("background-color") for cell in every(page, ".matrix td")}
        assert len({painted[text] for text in ("2", "1", "·")}) == 3, "by their share"
        asked = [cell for cell in every(page, "td.asked") if cell.text == "2"]
        assert asked[0].value_of_css_property("outline-style") == "solid"
        assert EVIL in one(page, ".matrix tbody th").text and page.execute_script("return window.injected") is None


def test_a_script_that_got_in_would_not_run(page):
    script = "const made = document.createElement('script'); made.textContent = 'window.injected = 3'"
    page.execute_script(f"{script}; document.body.append(made)")
    assert page.execute_script("return window.injected") is None
    complaints = page.get_log("browser")
    assert len(complaints) == 1 and "Content Security Policy" in complaints[0]["message"]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_and_follows_the_scheme(page, width, scheme):
    emulate = page.execute_cdp_cmd
    try:
        emulate("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        emulate("Emulation.setDeviceMetricsOverride", metrics)
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        red, green, blue = map(int, re.findall(r"\d+", one(page, "body").value_of_css_property("background-color"))[:3])
        assert (red + green + blue > 600) == (scheme == "light")
        assert one(page, "a.task .bar").rect["width"] > 60
    finally:
        emulate("Emulation.clearDeviceMetricsOverride", {})
        emulate("Emulation.setEmulatedMedia", {"features": []})


def test_a_comparison(driver, logs):
    runs = gather([logs / "a"]), gather([logs / "b"])
    write_report(logs / "a" / "compared.html", *runs, compare(*runs))
    for page in opened(driver, logs / "a" / "compared.html"):
        section = one(page, "#comparison").text
        assert "B is 5.0 points worse" in section and "0 episodes only B solved, 1 only A" in section
        assert "n_action_steps 8 4" in section
        bars = [bar.rect["width"] for bar in every(page, 'a.task[data-suite="libero_spatial"][data-task="1"] .bar')]
        assert len(bars) == 2 and bars[1] == pytest.approx(bars[0] / 2, abs=1)
        Select(one(page, "#outcome")).select_by_visible_text("only A solved")
        assert one(page, "#count").text == "1 of 20 episodes"
        one(page, ".episode:not([hidden])").click()
        screens = [screen.text for screen in every(page, "#screens figure")]
        assert "A: ✓ success" in screens[0] and "B: ✗ failure" in screens[1]


def test_embedded_videos_play_from_the_page_alone(driver, logs, tmp_path):
    size = write_report(tmp_path / "report.html", gather([logs / "a"]), embed_videos=True)
    plain = (logs / "a" / "videos" / "succeeds.mp4").stat().st_size
    assert size == (tmp_path / "report.html").stat().st_size > plain * 4 / 3
    for page in opened(driver, tmp_path / "report.html"):
        page.execute_script("document.querySelector('.episode').scrollIntoView()")
        wait_for(page, "document.querySelector('.episode img').naturalWidth === 320")
        assert one(page, ".episode img").get_attribute("src").startswith("data:image/jpeg")
        page.execute_script("document.querySelector('.episode').click()")
        wait_for(page, "document.querySelector('#screens video').currentTime > 0.3")
        assert page.execute_script("return document.querySelector('#screens video').src").startswith("data:video/mp4")


def test_two_thousand_episodes(driver, tmp_path):
    """As many as LIBERO has, each with a video and a poster: a small page, quick to open, few of them loaded."""
    make_video(tmp_path / "x.mp4", True)
    (tmp_path / "videos").mkdir()
    records = [
        record(task, init, (task + init) % 9 > 0, suite, video=f"videos/{suite}_{task}_{init}.mp4")
        for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10")
        for task in range(10)
        for init in range(50)
    ]
    for each in records:
        os.link(tmp_path / "x.mp4", tmp_path / each["video"])
        os.link(tmp_path / "x.jpg", poster_path(tmp_path / each["video"]))
    write_quickly(tmp_path / "results.jsonl", records)
    assert write_report(tmp_path / "report.html", gather([tmp_path])) < 3e6
    for page in opened(driver, tmp_path / "report.html"):
        start = time.monotonic()
        assert one(page, "#count").text == "2000 of 2000 episodes" and time.monotonic() - start < 5
        page.execute_script("document.getElementById('grid').scrollIntoView()")
        wait_for(page, "document.querySelector('.episode img').naturalWidth === 320")
        loaded = page.execute_script("return [...document.images].filter(image => image.naturalWidth > 0).length")
        assert 0 < loaded < 400
        assert len(every(page, "a.task")) == 40


# ---- without it ------------------------------------------------------------------------------------------------


def embedded(path):
    text = Path(path).read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_videos_are_linked_relative_to_the_report(report, logs, tmp_path):
    addresses = [episode["video"] for episode in embedded(report)["episodes"] if episode["video"]]
    assert addresses == ["videos/fails%20100%25.mp4", "videos/succeeds.mp4"]
    write_report(logs / "elsewhere" / "report.html", gather([logs / "a"]))
    addresses = [episode["video"] for episode in embedded(logs / "elsewhere" / "report.html")["episodes"]]
    assert "../a/videos/succeeds.mp4" in addresses


@pytest.mark.parametrize("named", ["../secret.mp4", "/etc/passwd", "videos/../../secret.mp4", "secret.txt"])
def test_nothing_outside_the_results_is_embedded(tmp_path, named):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "secret.txt").write_bytes(b"secret")
    folder = write(tmp_path / "logs" / "results.jsonl", [record(video=named)])
    write_report(tmp_path / "report.html", gather([folder]), embed_videos=True)
    assert base64.b64encode(b"secret").decode() not in (tmp_path / "report.html").read_text()


def test_a_poster_that_leads_elsewhere_is_not_embedded(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    make_video(tmp_path / "logs" / "videos" / "x.mp4", True)
    (tmp_path / "logs" / "videos" / "x.jpg").unlink()
    (tmp_path / "logs" / "videos" / "x.jpg").symlink_to(tmp_path / "secret.jpg")
    folder = write(tmp_path / "logs" / "results.jsonl", [record(video="videos/x.mp4")])
    write_report(tmp_path / "report.html", gather([folder]), embed_videos=True)
    (episode,) = embedded(tmp_path / "report.html")["episodes"]
    assert episode["video"] and episode["poster"] is None


def test_the_page_is_one_file_that_names_no_other(report):
    text = report.read_text()
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)', text)
    assert "http://" not in text and "https://" not in text and "{{" not in text.replace("{{data}}", "")


def test_a_run_without_any_result_gives_a_page(tmp_path):
    folder = write(tmp_path / "planned.jsonl", [plan(0, range(4))])
    write_report(tmp_path / "report.html", gather([folder]))
    assert "MISSING: 4 of 4" in (tmp_path / "report.html").read_text()
    assert list(tmp_path.glob("*.tmp")) == []


def test_paths_read_from_the_working_folder(tmp_path, monkeypatch):
    """Nothing says where on this machine that is; what lies elsewhere is named whole."""
    monkeypatch.chdir(tmp_path)
    here = {
        "model_path": str(tmp_path / "checkpoints/run"),
        "model_folder": str(tmp_path / "checkpoints/run/last/model"),
    }
    write(tmp_path / "a/results.jsonl", [record(init_state=init, **here) for init in range(3)])
    write(tmp_path / "b/results.jsonl", [record(init_state=init, model_path="/elsewhere/run") for init in range(2)])
    runs = [gather([tmp_path / name]) for name in "ab"]
    write_report(tmp_path / "report.html", *runs, compare(*runs))
    text = (tmp_path / "report.html").read_text()
    assert str(tmp_path) not in text
    for path in ("checkpoints/run/last/model", "a/results.jsonl", "/elsewhere/run"):
        assert path in text
