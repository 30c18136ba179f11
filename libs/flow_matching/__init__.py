from libs.flow_matching.flow import draw_noise, draw_times, flow_matching_loss, interpolate
from libs.flow_matching.normalizer import Normalizer
from libs.flow_matching.samplers import SAMPLERS, euler_sample, heun_sample

__all__ = [
    "SAMPLERS",
    "Normalizer",
    "draw_noise",
    "draw_times",
    "euler_sample",
    "flow_matching_loss",
    "heun_sample",
    "interpolate",
]
