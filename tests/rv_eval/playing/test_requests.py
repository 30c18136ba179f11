"""Episodes that are asked for something else than their tasks say: planned, played, recorded, continued, gathered."""

import json
from dataclasses import dataclass, replace

import imageio
import pytest

from libs.errors import BadInput
from libs.libero_sim import REPORTED_SUITES, get_task
from libs.wordings import Wording, read_wordings
from rv_eval.agent import AgentSettings
from rv_eval.envs.base import Reply, Request
from rv_eval.playing import video
from rv_eval.playing.evaluate import EvalOptions, closing_report, evaluate, plan_episodes
from rv_eval.playing.requests import ask_all, reword, wordings_setting, words_of
from rv_eval.results.records import ALL_OF_SUITE, ResultsFile
from rv_eval.results.summary import gather, list_episodes
from tests.rv_eval.fakes import FakeEnv, FakePolicy, FakeTask
from tools.evaluation import TRAINED_WORDINGS

WORDINGS = {"do it": [Wording("make it so", ("action",)), Wording("it, please", ("request", "object"))]}
TEST_WORDINGS = TRAINED_WORDINGS.with_name("libero_test.json")


@dataclass(frozen=True)
class Task(FakeTask):
    num_init_states: int = 4


class Listening(FakePolicy):
    """Keeps what it read."""

    def __init__(self):
        super().__init__()
        self.read = []

    def predict_detailed(self, observations):
        self.read += [observation["instruction"] for observation in observations]
        return super().predict_detailed(observations)


class TellingEnv(FakeEnv):
    """Tells of the step and of what it was asked for."""

    def begin(self, episode, views):
        self.asked = episode.request.task_id
        super().begin(episode, views)

    def receive(self):
        reply = super().receive()
        step = int(reply.observation["proprio"]["robot_states"][0])
        reached = [{"task_id": self.asked, "step": step}] if reply.success else []
        return Reply(reply.observation, reply.success, {"asked_for": ["cup"], "first_moved": "cup", "reached": reached})


def requests(task):
    return [Request("do it", 0), Request("do the other", 1)]


def run(log_dir, episodes, instructions, make_env=FakeEnv, **options):
    policy = Listening()
    provenance = {"model_path": "fake", "model_fingerprint": "abc", "render": "standard", "resolution": 8}
    provenance |= {"versions": {"mujoco": "2.3.7"}, "instructions": instructions}
    options = EvalOptions(log_dir, AgentSettings(), **options)
    return evaluate(policy, make_env, episodes, options, provenance, lambda line: None), policy.read, options


def test_episode_n_is_asked_in_wording_n_modulo_their_number():
    episodes = reword(plan_episodes([Task(), Task(task_id=2)], 3, seed=7), WORDINGS, {"make", "it", "so"})
    assert [episode.instruction for episode in episodes] == ["make it so", "it, please", "make it so"] * 2
    first, second = episodes[3].request, episodes[4].request
    assert first == Request("make it so", 2, ("action",), ()) and second.new_words == ("please",)
    assert second.as_record()["axes"] == ["request", "object"]
    assert set(Request("go", 3).as_record()) == {"asked", "asked_task_id"}


@pytest.mark.libero
def test_the_published_wordings_are_four_hundred_episodes_and_have_the_words_that_the_page_tells():
    tasks = [get_task(suite, task_id) for suite in REPORTED_SUITES for task_id in range(10)]
    wordings, trained = read_wordings(TEST_WORDINGS), read_wordings(TRAINED_WORDINGS)
    known = words_of(dict.fromkeys(wordings, ())) | words_of(trained)
    assert len(known) == 136
    episodes = reword(plan_episodes(tasks, 10, seed=7), wordings, known)
    assert len({(episode.task, episode.instruction) for episode in episodes}) == 400
    assert sum(not episode.request.new_words for episode in episodes) == 157


def test_a_policy_reads_what_is_asked_and_the_record_says_so(tmp_path, monkeypatch):
    captions = []
    draw = video.draw_frame
    monkeypatch.setattr(
        video, "draw_frame", lambda views, text, *more: captions.append(text) or draw(views, text, *more)
    )
    episodes = reword(plan_episodes([Task()], 4, seed=7)[2:], WORDINGS, set())
    records, read, _ = run(tmp_path, episodes, "x", save_video="all")
    assert set(read) == {"make it so", "it, please"} == set(captions)
    first = records[0]
    assert (first["instruction"], first["asked"], first["axes"]) == ("do it", "make it so", ["action"])
    assert first["new_words"] == ["make", "it", "so"] and "facts" not in first
    imageio.get_reader(tmp_path / first["video"]).close()
    run(
        tmp_path, plan_episodes([Task()], 4, seed=7), None, save_video="none"
    )  # the same in its own words: new episodes
    assert len(ResultsFile(tmp_path / "results.jsonl").read()) == 6


def test_a_matrix_is_recorded_continued_and_gathered(tmp_path):
    episodes = ask_all(plan_episodes([Task(max_steps=3)], 4, seed=7), requests)
    assert len(episodes) == 8 and {episode.request.text for episode in episodes[:2]} == {"do it", "do the other"}
    for shard in (0, 1):
        run(tmp_path, episodes[:6], ALL_OF_SUITE, TellingEnv, save_video="failures", shard_id=shard, num_shards=2)
    gathered = gather([tmp_path])
    assert len(gathered.episodes) == 6 == gathered.planned and gathered.is_sound
    assert len({record.values["video"] for record in gathered.episodes if record.values["video"]}) == 2, "init state 0"
    with pytest.raises(BadInput, match="holds 6 of these 8"):
        run(tmp_path, episodes, ALL_OF_SUITE, TellingEnv)
    records, read, options = run(tmp_path, episodes, ALL_OF_SUITE, TellingEnv, skip_evaluated=True, save_video="none")
    assert len(records) == 8 and set(read) == {"do it", "do the other"} and len(read) == 2
    assert all(record["facts"]["first_moved"] == "cup" for record in records)
    report = closing_report(records, options)
    assert "fake: does it read?" in report and "not a fake result: instructions of all tasks of the suite" in report
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    broken = json.loads(lines[0])
    del broken["facts"]["first_moved"]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [broken | {"facts": {}}]))
    with pytest.raises(BadInput, match=r"results.jsonl line 1 is not a result: facts is \{\}"):
        gather([tmp_path])


def test_a_part_that_is_missing_is_named_with_what_is_asked(tmp_path):
    episodes = ask_all(plan_episodes([Task()], 2, seed=7), requests)
    run(tmp_path, episodes, ALL_OF_SUITE, TellingEnv, save_video="none", shard_id=0, num_shards=2)
    assert list_episodes(gather([tmp_path]).missing) == ["fake 0 'do it': init 1", "fake 0 'do the other': init 1"]


def test_another_file_of_wordings_is_another_measurement(tmp_path):
    file = tmp_path / "some.json"
    file.write_text('{"do it": [{"text": "go", "axes": []}]}')
    before = wordings_setting(file)
    assert before.startswith("in the wordings of some.json ") and before == wordings_setting(file)
    file.write_text('{"do it": [{"text": "run", "axes": []}]}')
    assert wordings_setting(file) != before


def test_an_episode_without_a_request_reads_its_task():
    (episode,) = plan_episodes([Task()], 1, seed=7)
    assert episode.instruction == "do it" and replace(episode, request=Request("go", 0)).instruction == "go"
