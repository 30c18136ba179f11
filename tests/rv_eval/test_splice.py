"""Which actions are executed while an answer is awaited, and where its chunk begins. An action's number says to which
step it belongs: 100 * the step of its observation + its place in the chunk."""

import itertools

import numpy as np
import pytest

from rv_eval.agent import AgentSettings
from rv_eval.splice import NAIVE, PREFIX, SPLICE, SYNC, Splicer

H = 8


def play(execution, delay, steps, settings=None, lead=None):
    """What is executed in `steps` control steps where every answer takes `delay` of them; "-": nothing."""
    splicer = Splicer(H, settings or AgentSettings(), execution)
    done, arrives, asked = [], None, None
    executed = 0
    for step in range(steps):
        if arrives == step:
            splicer.add_chunk(np.array([[100 * asked + place] for place in range(H)], np.float32))
            arrives = None
        if splicer.due(delay if lead is None else lead):
            splicer.ask()
            asked, arrives = executed, step + delay
            if delay == 0:
                splicer.add_chunk(np.array([[100 * asked + place] for place in range(H)], np.float32))
        action = splicer.next_action()
        executed += action is not None
        done.append("-" if action is None else int(action[0]))
    return done


def chunk_of(asked, *places):
    return [100 * asked + place for place in places]


@pytest.mark.parametrize("execution", [SYNC, NAIVE, SPLICE])
def test_without_delay_all_are_the_same(execution):
    wanted = chunk_of(0, *range(8)) + chunk_of(8, *range(8))
    assert play(execution, 0, 16) == wanted


def test_sync_stands_still():
    assert play(SYNC, 3, 22) == ["-"] * 3 + chunk_of(0, *range(8)) + ["-"] * 3 + chunk_of(8, *range(8))


def test_the_next_chunk_is_there_when_the_present_one_ends_and_its_elapsed_actions_are_left_out():
    done = play(SPLICE, 2, 24)
    # asked after 6, spliced in at its third action: 6 + 2 = 8
    parts = [chunk_of(0, *range(8)), chunk_of(6, *range(2, 8)), chunk_of(12, *range(2, 8)), chunk_of(18, 2, 3)]
    assert done == ["-", "-", *itertools.chain(*parts)]
    moved = [action for action in done if action != "-"]
    assert [action // 100 + action % 100 for action in moved] == list(range(len(moved))), "every action at its own step"


def test_naive_starts_the_new_chunk_at_its_first_action():
    done = play(NAIVE, 2, 20)
    assert done == ["-"] * 2 + chunk_of(0, *range(8)) + chunk_of(6, *range(8)) + chunk_of(14, 0, 1)


def test_half_a_horizon_is_the_longest_delay_without_a_hold():
    done = play(SPLICE, 4, 24)
    parts = [chunk_of(0, *range(8)), *(chunk_of(asked, *range(4, 8)) for asked in (4, 8, 12))]
    assert done == ["-"] * 4 + list(itertools.chain(*parts))


def test_a_longer_one_holds_and_repeats_nothing():
    done = play(SPLICE, 6, 30)
    moved = [action for action in done if action != "-"]
    assert done.count("-") > 6 and len(set(moved)) == len(moved)
    assert [action // 100 + action % 100 for action in moved] == list(range(len(moved))), "steps that held do not count"


@pytest.mark.parametrize("delay", [8, 11])
def test_a_whole_horizon_of_delay_moves_and_holds_in_turn(delay):
    wanted = ["-"] * delay + chunk_of(0, *range(8)) + ["-"] * delay + chunk_of(8, *range(8))
    assert play(SPLICE, delay, len(wanted)) == wanted


def test_an_answer_that_is_later_than_thought_is_spliced_in_later():
    done = play(SPLICE, 3, 20, lead=1)
    # asked after 7 of 8: one action is left, then it holds until the answer is there, and goes on behind that one
    assert done == ["-"] * 3 + chunk_of(0, *range(8)) + ["-"] * 2 + chunk_of(7, *range(1, 8))


def test_an_answer_of_which_nothing_is_left_is_not_used():
    splicer = Splicer(H, AgentSettings())
    splicer.ask()
    assert splicer.add_chunk(np.zeros((H, 1)))
    splicer.ask()  # far too early
    assert [splicer.next_action() is None for _ in range(9)] == [False] * 8 + [True]
    assert not splicer.add_chunk(np.ones((H, 1)))
    assert splicer.next_action() is None and splicer.due(8)


def test_fewer_actions_per_question():
    settings = AgentSettings(n_action_steps=3)
    assert play(SPLICE, 1, 12, settings) == [
        "-",
        *chunk_of(0, 0, 1, 2, 3),
        *chunk_of(3, 1, 2, 3),
        *chunk_of(6, 1, 2, 3),
        *chunk_of(9, 1),
    ]
    assert play(SYNC, 1, 8, settings) == ["-", *chunk_of(0, 0, 1, 2), "-", *chunk_of(3, 0, 1, 2)]
    # a question that nobody answered in time: the chunk goes on to its end, not only to n_action_steps
    assert play(SPLICE, 7, 16, settings, lead=1)[7:16] == [*chunk_of(0, *range(8)), "-"]


def test_chunks_are_averaged_where_they_overlap():
    settings = AgentSettings(n_action_steps=4, ensemble_size=2, ensemble_weight=1.0)
    splicer = Splicer(H, settings)
    splicer.ask()
    splicer.add_chunk(np.arange(8.0)[:, None])
    for _ in range(3):
        splicer.next_action()
    splicer.ask()
    splicer.next_action()
    splicer.add_chunk(10 + np.arange(3.0, 11.0)[:, None])  # what it says of step s is 10 + s
    assert [splicer.next_action()[0] for _ in range(7)] == [9, 10, 11, 12, 18, 19, 20]  # until step 7 both


def test_what_is_coming_is_what_is_executed_until_the_answer():
    splicer = Splicer(H, AgentSettings(), PREFIX)
    assert splicer.coming(3) == []
    splicer.ask()
    splicer.add_chunk(np.arange(8.0)[:, None])
    for delay in (3, 2):
        while not splicer.due(delay):
            splicer.next_action()
        coming = splicer.coming(delay)
        splicer.ask()
        assert coming == [splicer.next_action() for _ in range(delay)] and len(splicer.coming(8)) == 0
        splicer.add_chunk(np.array([*(action[0] for action in coming), *range(20, 28 - delay)])[:, None])
    other = Splicer(H, AgentSettings(), SPLICE)
    other.ask()
    other.add_chunk(np.arange(8.0)[:, None])
    assert other.coming(3) == []


def test_a_forgotten_question_is_asked_again():
    splicer = Splicer(H, AgentSettings())
    assert splicer.due(1)
    splicer.ask()
    assert not splicer.due(1) and splicer.asked
    splicer.forget()
    assert splicer.due(1)
    splicer.ask()
    splicer.add_chunk(np.zeros((H, 2)))
    splicer.reset()
    assert splicer.next_action() is None and not splicer.asked


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="sync, naive, splice, prefix"):
        Splicer(H, AgentSettings(), "fast")
    with pytest.raises(ValueError, match="action horizon 9"):
        Splicer(H, AgentSettings(n_action_steps=9))
