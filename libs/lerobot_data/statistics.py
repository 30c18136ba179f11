"""Statistics as LeRobot keeps them: min, max, mean, std, count and quantiles of each feature."""

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
LEVELS = np.arange(256) / 255  # pictures are counted in 0..1


def number_stats(values: np.ndarray) -> dict:
    """{name: one number per column} of (N, dim) numbers, "count" the number of rows; as JSON."""
    columns = np.asarray(values).reshape(len(values), -1)
    found = {"min": columns.min(axis=0), "max": columns.max(axis=0)}
    exact = columns.astype(np.float64)
    found |= {"mean": exact.mean(axis=0), "std": exact.std(axis=0), "count": np.array([len(columns)])}
    found |= {name: np.quantile(exact, share, axis=0) for name, share in QUANTILES.items()}
    return {name: value.tolist() for name, value in found.items()}


def histogram(picture: np.ndarray) -> np.ndarray:
    """(3, 256) int64: how often each channel of (H, W, 3) uint8 has each value."""
    return np.stack([np.bincount(picture[:, :, channel].ravel(), minlength=256) for channel in range(3)])


def picture_stats(counts: np.ndarray, num_pictures: int) -> dict:
    """As `number_stats` of all pixels in 0..1, out of the pictures' (3, 256) histogram; values are (3, 1, 1)."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ LEVELS
    found = {
        "min": LEVELS[np.argmax(counts > 0, axis=1)],
        "max": LEVELS[255 - np.argmax(counts[:, ::-1] > 0, axis=1)],
        "mean": mean,
        "std": np.sqrt((shares * (LEVELS - mean[:, None]) ** 2).sum(axis=1)),
    }
    below = np.cumsum(shares, axis=1)
    found |= {name: LEVELS[np.argmax(below >= share - 1e-12, axis=1)] for name, share in QUANTILES.items()}
    return {**{name: value.reshape(3, 1, 1).tolist() for name, value in found.items()}, "count": [num_pictures]}
