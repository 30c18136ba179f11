"""Frames → pictures for the model: crop, resize, colour jitter, tile. uint8 in, uint8 out.

Training crops at random and jitters; evaluation crops the centre and leaves the colours alone. Cutting into patches
and normalising happen on the model's device (`rv_train/backbones/patches.py`), so a loader process moves bytes only.
"""

import numpy as np

from libs.errors import BadInput

GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601: shares of red, green and blue


class ImageTransform:
    """Turns upright views into pictures.

    In training every view is cropped at a place of its own; the views of a sample share one draw of the colour jitter,
    as they share the light. (The documents of the published recipe give the ranges and leave both open.)

    Args:
        size: side of one view after resizing, pixels.
        crop: side of the crop as a share of the frame's side.
        tile: views side by side in one picture, or one picture each.
        brightness, contrast, saturation: factors are uniform in 1 ± value.
        hue: shift uniform in ± value, in turns of the colour circle.
    """

    def __init__(self, size, crop=1.0, tile=True, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0):
        self.size, self.crop, self.tile = size, crop, tile
        self.jitter = (brightness, contrast, saturation, hue)

    @classmethod
    def from_cfg(cls, cfg):
        image = cfg.IMAGE
        return cls(image.SIZE, image.CROP, image.TILE, image.BRIGHTNESS, image.CONTRAST, image.SATURATION, image.HUE)

    def __call__(self, views, rng=None):
        """One sample's pictures.

        Args:
            views: list of (H, W, 3) uint8 upright frames, square.
            rng: numpy Generator for training; None for evaluation (centre crop, no jitter).
        Returns:
            (N, size, W', 3) uint8: N = 1 and W' = size × views when tiled, else N = views and W' = size.
        Raises:
            BadInput: a view that is not a square uint8 picture.
        """
        colours = None if rng is None else self._draw_jitter(rng)
        pictures = [self._resize(self._cut(view, rng)) for view in views]
        if colours is not None:
            pictures = [jitter(picture, *colours) for picture in pictures]
        return np.concatenate(pictures, axis=1)[None] if self.tile else np.stack(pictures)

    def _cut(self, view, rng):
        square = view.ndim == 3 and view.shape[0] == view.shape[1] > 0 and view.shape[2] == 3
        if view.dtype != np.uint8 or not square:
            raise BadInput(f"a view must be a square (H, H, 3) uint8 picture, got {view.dtype} {view.shape}")
        full = view.shape[0]
        side = round(full * self.crop)
        if rng is None:
            top = left = (full - side) // 2
        else:
            top, left = rng.integers(0, full - side + 1, size=2)
        return view[top : top + side, left : left + side]

    def _resize(self, picture):
        if picture.shape[0] == self.size:
            return picture
        cv2 = _opencv()
        shrink = picture.shape[0] > self.size
        return cv2.resize(picture, (self.size, self.size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)

    def _draw_jitter(self, rng):
        brightness, contrast, saturation, hue = self.jitter
        if not any(self.jitter):
            return None
        factors = 1.0 + rng.uniform(-1.0, 1.0, size=3) * (brightness, contrast, saturation)
        return (*factors, rng.uniform(-hue, hue))


def jitter(picture, brightness, contrast, saturation, hue):
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


def _opencv():
    """OpenCV, imported where a picture is resized or recoloured: it wants libGL, which a training node may lack."""
    import cv2

    cv2.setNumThreads(0)  # the loader processes share the cores already
    return cv2
