"""LIBERO episodes for the rollout: a simulator process per environment."""

from libs.demo_hdf5 import LIBERO
from libs.libero_sim import ACTION_DIM, VIEWS, LiberoTask, init_states
from rv_eval.envs.base import Episode
from rv_eval.envs.process import ProcessEpisodeEnv, headless_gl

__all__ = ["ACTION_DIM", "PROPRIO", "VIEWS", "LiberoEpisodeEnv", "headless_gl"]

PROPRIO = {part: place.dim for part, place in LIBERO.proprio.items()}  # what an observation tells about the robot


class LiberoEpisodeEnv(ProcessEpisodeEnv):
    """An EpisodeEnv of one LIBERO task; see ProcessEpisodeEnv. BadInput: the task has no init states."""

    def __init__(self, task: LiberoTask, resolution: int, render: str):
        self._init_states = init_states(task)
        super().__init__(task, resolution, render)

    def reset_arguments(self, episode: Episode) -> tuple:
        return episode.seed, self._init_states[episode.init_state]
