"""libs.demo_hdf5.task_text: what LIBERO's benchmark states of a demonstration file's task."""

import pytest

from libs.demo_hdf5.task_text import INSTRUCTION_IN_BDDL, benchmark_text, libero_tasks, same_text, text_of_name
from libs.libero_sim.suites import LIBERO_SUITES, get_task, num_tasks

STOVE = "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"


@pytest.mark.libero
def test_every_task_of_the_benchmark_is_known_and_says_what_it_states_at_evaluation():
    tasks = [get_task(suite, n) for suite in LIBERO_SUITES for n in range(num_tasks(suite))]
    assert libero_tasks() == {task.name for task in tasks} and len(tasks) == 130
    for task in tasks:
        assert benchmark_text(f"some/where/{task.name}_demo.hdf5", task.bddl_file) == task.instruction


@pytest.mark.parametrize("ending", INSTRUCTION_IN_BDDL)
def test_suites_that_state_the_bddl_files_text_are_left_alone(ending):
    assert benchmark_text(f"{STOVE}_demo.hdf5", f"bddl_files/libero_spatial/{STOVE}.bddl")
    assert benchmark_text(f"{STOVE}_demo.hdf5", f"bddl_files/libero_spatial{ending}/{STOVE}.bddl") == ""


def test_other_names_are_no_tasks_of_the_benchmark():
    assert benchmark_text(f"{STOVE}_demo.hdf5", None).startswith("pick up the black bowl on the stove")
    for name in ("wipe_the_table_demo.hdf5", f"{STOVE}_twice_demo.hdf5", "demo.hdf5"):
        assert benchmark_text(name, f"libero_spatial/{STOVE}.bddl") == ""
    assert text_of_name("LIVING_ROOM_SCENE10_wipe_it_demo.hdf5") == "wipe it"


def test_capitals_spaces_and_punctuation_make_no_other_instruction():
    assert same_text("Put the bowl  on the plate.", "put the bowl on the_plate")
    assert not same_text("put the bowl on the plate", "put the bowl on a plate")
