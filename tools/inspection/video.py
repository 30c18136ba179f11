"""Demos as a video."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.inspection.text import Show


def write_video(path: Path, shows: Sequence[Show], num_demos: int | None) -> int:
    """Play the first `num_demos` demos (None: all) of each in real time; returns the number of frames."""
    import imageio

    from rv_eval.playing.video import CONTROL_HZ

    todo = [(show, number) for show in shows for number in range(len(show.lengths[:num_demos]))]
    total = sum(show.lengths[number] for show, number in todo)
    sizes = [picture_of(show, number, 0).shape for show, number in todo]
    shape = np.max(sizes, axis=0)  # they differ in their views and in the lines of their instructions
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{os.getpid()}.mp4")  # beside, so that a kill leaves no half video
    try:
        with (
            imageio.get_writer(part, fps=CONTROL_HZ, codec="libx264", macro_block_size=2, quality=6) as writer,
            tqdm(total=total, unit="frame", dynamic_ncols=True) as bar,
        ):
            for show, number in todo:
                for t in range(show.lengths[number]):
                    board = np.zeros(shape, np.uint8)
                    picture = picture_of(show, number, t)
                    board[: picture.shape[0], : picture.shape[1]] = picture
                    writer.append_data(board)
                    bar.update()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return total


def picture_of(show: Show, number: int, t: int) -> np.ndarray:
    """The views side by side, with instruction, demo and frame number under them: (H, W, 3) uint8."""
    from rv_eval.playing.video import draw_frame

    views, instruction, demo = show.frame(number, t)
    return draw_frame(views, instruction, f"{demo}  frame {t + 1} of {show.lengths[number]}")
