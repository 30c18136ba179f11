"""tools/collect_stack.py: real demonstrations that replay. For interruptions and workers see test_collect_demos.py."""

import json

import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile, KeyMap
from libs.stack_sim import PROPRIO_DIMS, VIEWS, StackEnv, StackTask
from tools.collect_stack import main

FILE = "stack_the_red_cube_on_the_green_cube_demo.hdf5"
COMMAND = ["--num_demos", "2", "--resolution", "64", "--render", "fast", "--start_late", "0.5", "--seed", "4"]


@pytest.mark.parametrize("extra", [["--start_late", "2"], ["--num_demos", "0"], ["--resolution", "0"]])
def test_wrong_input_is_one_line_and_exit_code_2(extra, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--num_demos", "1", "--out", str(tmp_path / "out"), *extra])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and extra[0] in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.sim
@pytest.mark.package("robosuite")
def test_collected_demos_replay_to_success(tmp_path, capsys):
    main([*COMMAND, "--workers", "2", "--out", str(tmp_path)])
    path = tmp_path / FILE
    assert f"{path}  2 demos" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*COMMAND, "--seed", "5", "--out", str(tmp_path)])
    assert "made with seed 4, not 5" in capsys.readouterr().err

    demos = DemoFile(path, KeyMap.find("isaac_cosmos"))
    assert (demos.instruction, demos.render) == (StackTask().instruction, "fast")
    assert json.loads(demos.attrs["env_args"])["env_name"] == "Stack" and int(demos.attrs["num_demos"]) == 2
    assert int(demos.attrs["total"]) == sum(demos.num_frames(demo) for demo in demos.demos)
    env = StackEnv(StackTask(), resolution=64, render="fast")
    try:
        for demo in demos.demos:
            check_replay(env, demos, demo)
    finally:
        env.close()


def check_replay(env, demos, demo):
    """From the first state the actions bring the same states, pictures and robot as were recorded, and success."""
    attrs, states, proprio = demos.demo_attrs(demo), demos.states(demo), demos.proprio(demo, tuple(PROPRIO_DIMS))
    assert attrs["num_samples"] == demos.num_frames(demo) and attrs["seed"] >= 2**31
    env.reset(int(attrs["seed"]), ())
    env.set_sim_state(states[0], attrs["start_gripper"])
    views, robot = env.render(), env.proprio_dict()
    for t, action in enumerate(demos.actions(demo)):
        np.testing.assert_array_equal(env.sim_state(), states[t])
        np.testing.assert_array_equal(np.concatenate(list(robot.values())).astype(np.float32), proprio[t])
        for view in VIEWS:
            np.testing.assert_array_equal(views[view], demos.frame(demo, t, view))
        observation, success = env.step(action, VIEWS)
        views, robot = observation["views"], observation["proprio"]
    assert success
