"""Demonstrations of the toy by an expert; they would be made by libs/toy_sim and a command in tools."""

import numpy as np

from libs.demo_hdf5 import EpisodeWriter
from tests.rv_eval.envs.toy import DESCRIPTION, NEAR, STEP, ToyEnv


def collect(folder, task, count, resolution=64, render="plain"):
    about = {"cameras": DESCRIPTION.views, "state": DESCRIPTION.proprio, "action_dim": DESCRIPTION.action_dim}
    writer = EpisodeWriter(folder, **about, rate=DESCRIPTION.control_hz)
    env = ToyEnv(task, resolution, render)
    for number in range(count):
        env.reset(task.num_init_states + number)  # those below are an evaluation's
        observation, success = env.settle(0, DESCRIPTION.views), False
        with writer.episode(task.instruction, {"render": render}) as episode:
            while not success:
                way = env.ball - env.hand
                action = np.append(np.clip(way / STEP, -1, 1), np.abs(way).max() < NEAR)
                episode.add(observation["views"], observation["proprio"], action)
                observation, success, _ = env.step(action, DESCRIPTION.views)
