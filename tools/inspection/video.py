"""Demos as a video."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libs.errors import BadInput
from libs.files import whole_file
from tools.inspection.text import Show

USUAL_HZ = 20  # frames per second where data does not state it


def write_video(path: Path, shows: Sequence[Show], num_demos: int | None) -> int:
    """Play the first `num_demos` demos (None: all) of each in real time; returns the number of frames."""
    import imageio

    todo = [(show, number) for show in shows for number in range(len(show.lengths[:num_demos]))]
    total = sum(show.lengths[number] for show, number in todo)
    sizes = [picture_of(show, number, 0).shape for show, number in todo]
    shape = np.max(sizes, axis=0)  # they differ in their views and in the lines of their instructions
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(path) as part,
        imageio.get_writer(part, fps=frame_rate(shows), codec="libx264", macro_block_size=2, quality=6) as writer,
        tqdm(total=total, unit="frame", dynamic_ncols=True) as bar,
    ):
        for show, number in todo:
            for t in range(show.lengths[number]):
                board = np.zeros(shape, np.uint8)
                picture = picture_of(show, number, t)
                board[: picture.shape[0], : picture.shape[1]] = picture
                writer.append_data(board)
                bar.update()
    return total


def frame_rate(shows: Sequence[Show]) -> float:
    """Frames per second of the demos. BadInput: files of different rates."""
    rates = [show.rate or USUAL_HZ for show in shows]
    if len(set(rates)) > 1:
        stated = ", ".join(f"{show.name} {rate:g}" for show, rate in zip(shows, rates, strict=True))
        raise BadInput(f"a video has one rate, these files have several frames per second: {stated}")
    return rates[0]


def picture_of(show: Show, number: int, t: int) -> np.ndarray:
    """The views side by side, with instruction, demo and frame number under them: (H, W, 3) uint8."""
    from rv_eval.playing.video import draw_frame

    views, instruction, demo = show.frame(number, t)
    return draw_frame(views, instruction, f"{demo}  frame {t + 1} of {show.lengths[number]}")
