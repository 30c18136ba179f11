"""LeRobot data sets (v2.0, v2.1, v3.0), read without LeRobot, and written (v3.0)."""

from libs.lerobot_data.cache import Estimate, FrameCache, Plan, default_folder
from libs.lerobot_data.dataset import LeRobotSet, is_set
from libs.lerobot_data.episode_files import PICTURES, EpisodeFrames, SetSpec, write_episode
from libs.lerobot_data.layout import Camera, Clip, Episode, Layout, Vector, read_layout
from libs.lerobot_data.locate import find_set
from libs.lerobot_data.writer import SetWriter

__all__ = [
    "PICTURES",
    "Camera",
    "Clip",
    "Episode",
    "EpisodeFrames",
    "Estimate",
    "FrameCache",
    "Layout",
    "LeRobotSet",
    "Plan",
    "SetSpec",
    "SetWriter",
    "Vector",
    "default_folder",
    "find_set",
    "is_set",
    "read_layout",
    "write_episode",
]
