"""Frames → pictures for the model: fit, crop, resize, colour jitter, tile. uint8 in, uint8 out.

Training crops at random and jitters; evaluation crops the centre and leaves the colours alone. Cutting into patches
and normalising happen on the model's device (`rv_train/backbones/patches.py`), so a loader process moves bytes only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from yacs.config import CfgNode

from libs.config_tree import pair
from libs.errors import BadInput

FITS = ("crop", "pad", "stretch")  # IMAGE.FIT
GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601: shares of red, green and blue


class Plan(NamedTuple):
    """The part of a frame that is seen, and the (height, width) that it is resized to."""

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int]


class ImageTransform:
    """Turns upright views into pictures of one size.

    A frame of another shape than that is brought to it as `fit` says, the same way always; then it is cropped. In
    training every view is cropped at a place of its own; the views of a sample share one draw of the colour jitter, as
    they share the light. (The documents of the published recipe give the ranges and leave both open.) Bars stay black.

    Args:
        size: side of one view after resizing, pixels, or (height, width).
        crop: sides of the crop as a share of the frame's.
        tile: views side by side in one picture, or one picture each.
        brightness, contrast, saturation: factors are uniform in 1 ± value.
        hue: shift uniform in ± value, in turns of the colour circle.
        fit: of FITS; what they do to the geometry is written at IMAGE.FIT in `rv_train.config`.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        crop: float = 1.0,
        tile: bool = True,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        fit: str = "crop",
    ) -> None:
        if fit not in FITS:
            raise BadInput(f"pictures are fitted by {', '.join(FITS)}, not {fit!r}")
        self.height, self.width = pair(size)
        self.crop, self.tile, self.fit = crop, tile, fit
        self.jitter = (brightness, contrast, saturation, hue)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "ImageTransform":
        """From the config tree."""
        image = cfg.IMAGE
        jitter = image.BRIGHTNESS, image.CONTRAST, image.SATURATION, image.HUE
        return cls(image.SIZE, image.CROP, image.TILE, *jitter, image.FIT)

    def __call__(self, views: Sequence[np.ndarray], rng: np.random.Generator | None = None) -> np.ndarray:
        """One sample's pictures.

        Args:
            views: (H, W, 3) uint8 upright frames, of any sizes.
            rng: numpy Generator for training; None for evaluation (centre crop, no jitter).

        Returns:
            (N, height, W', 3) uint8: N = 1 and W' = width × views when tiled, else N = views and W' = width.

        Raises:
            BadInput: a view that is not a uint8 picture.
        """
        colours = None if rng is None else self._draw_jitter(rng)
        pictures = [self._resize(self._cut(self._taken(view), rng)) for view in views]
        if colours is not None:
            pictures = [jitter(picture, *colours) for picture in pictures]
        pictures = [self._between_bars(picture) for picture in pictures]
        return np.concatenate(pictures, axis=1)[None] if self.tile else np.stack(pictures)

    def evaluation_plan(self, height: int, width: int) -> "Plan":
        """What becomes of a frame of this size in evaluation."""
        frame = np.empty((height, width, 3), np.uint8)
        seen = self._cut(self._taken(frame), None)
        top, left = divmod((seen.ctypes.data - frame.ctypes.data) // 3, width)
        return Plan(top, left, seen.shape[0], seen.shape[1], self._resize(seen).shape[:2])

    def _taken(self, view):
        """What of a frame is seen at all."""
        if view.dtype != np.uint8 or view.ndim != 3 or view.shape[2] != 3 or 0 in view.shape:
            raise BadInput(f"a view must be a (H, W, 3) uint8 picture, got {view.dtype} {view.shape}")
        if self.fit != "crop":
            return view
        height, width = view.shape[:2]
        if width * self.height > height * self.width:  # too wide
            return _middle(view, height, max(1, round(height * self.width / self.height)))
        return _middle(view, max(1, round(width * self.height / self.width)), width)

    def _cut(self, view, rng):
        height, width = (max(1, round(side * self.crop)) for side in view.shape[:2])
        if rng is None:
            return _middle(view, height, width)
        top, left = rng.integers(0, (view.shape[0] - height + 1, view.shape[1] - width + 1))
        return view[top : top + height, left : left + width]

    def _resize(self, picture):
        height, width = self.height, self.width
        if self.fit == "pad":
            scale = min(height / picture.shape[0], width / picture.shape[1])
            height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        if picture.shape[:2] == (height, width):
            return picture
        cv2 = _opencv()
        shrink = picture.shape[0] * picture.shape[1] > height * width
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)

    def _between_bars(self, picture):
        height, width = picture.shape[:2]
        if (height, width) == (self.height, self.width):
            return picture
        board = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = (self.height - height) // 2, (self.width - width) // 2
        board[top : top + height, left : left + width] = picture
        return board

    def _draw_jitter(self, rng):
        brightness, contrast, saturation, hue = self.jitter
        if not any(self.jitter):
            return None
        factors = 1.0 + rng.uniform(-1.0, 1.0, size=3) * (brightness, contrast, saturation)
        return (*factors, rng.uniform(-hue, hue))


def jitter(picture: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """The four steps of torchvision's ColorJitter, always in the order of the arguments; torchvision shuffles them.

    Brightness, contrast and saturation blend with black, with the picture's mean grey and with each pixel's grey, and
    are clipped to 0..255 after each step. Bytes are rounded once, before hue, where torchvision cuts off after each
    step: ours are up to 3 levels brighter, 1.4 on average. Hue turns the circle in steps of 1/256 (HSV in bytes, as
    torchvision does for PIL pictures).

    Args:
        picture: (H, W, 3) uint8.
        brightness, contrast, saturation: factors, 1 leaves the picture alone.
        hue: shift in turns, 0 leaves the picture alone.

    Returns:
        (H, W, 3) uint8.
    """
    cv2 = _opencv()
    shades = np.clip(np.arange(256) * brightness, 0, 255).astype(np.float32)  # what each of the 256 levels becomes
    mean_grey = np.dot(cv2.mean(cv2.LUT(picture, shades))[:3], GREY)
    shades = np.clip(shades * contrast + (1 - contrast) * mean_grey, 0, 255).astype(np.float32)
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(GREY, (3, 1))
    x = cv2.transform(cv2.LUT(picture, shades), mix)
    x = cv2.add(x, 0, dtype=cv2.CV_8U)  # rounds and clips
    if hue != 0.0:
        hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(round(hue * 256) % 256)  # uint8 arithmetic wraps around the circle
        x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return x


def _middle(view, height, width):
    top, left = (view.shape[0] - height) // 2, (view.shape[1] - width) // 2
    return view[top : top + height, left : left + width]


def _opencv():
    """OpenCV, imported where a picture is resized or recoloured: it wants libGL, which a training node may lack."""
    import cv2

    cv2.setNumThreads(0)  # the loader processes share the cores already
    return cv2
