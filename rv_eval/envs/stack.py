"""Cube-stacking episodes for the rollout: a simulator process per environment."""

from libs.libero_sim import ACTION_DIM
from libs.stack_sim import PROPRIO_DIMS as PROPRIO
from libs.stack_sim import VIEWS, StackProcess, StackTask, init_seed
from rv_eval.envs.base import Episode
from rv_eval.envs.process import ProcessEpisodeEnv, headless_gl

__all__ = ["ACTION_DIM", "PROPRIO", "VIEWS", "StackEpisodeEnv", "StackTask", "headless_gl"]


class StackEpisodeEnv(ProcessEpisodeEnv):
    """An EpisodeEnv of cube stacking; see ProcessEpisodeEnv. An init state is a numbered reset of its own seed; the
    episode's seed is the policy's only."""

    PROCESS = StackProcess

    def reset_arguments(self, episode: Episode) -> tuple:
        return init_seed(episode.init_state), ()
