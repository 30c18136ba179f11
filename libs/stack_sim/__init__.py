"""robosuite's cube stacking: a seeded env, a scripted expert, demonstrations in Isaac Lab's layout."""

from libs.stack_sim.env import CONTROL_FREQ, PROPRIO_DIMS, VIEWS, StackEnv, StackProcess
from libs.stack_sim.task import StackTask, init_seed

__all__ = ["CONTROL_FREQ", "PROPRIO_DIMS", "VIEWS", "StackEnv", "StackProcess", "StackTask", "init_seed"]
