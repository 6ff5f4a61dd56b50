"""Event recordings to frames: how often each pixel fired in each of T equal spans of time."""

from __future__ import annotations

import numpy as np


def to_frames(
    events: np.ndarray, num_steps: int, sensor: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Count the events of a recording by time bin, polarity and pixel.

    The time from the first to the last event is cut into `num_steps` equal bins. A `size` smaller
    than the sensor maps pixel x to floor(x * width / sensor width), y likewise, so that the counts
    of pixels that fall together add up.

    Args:
        events: structured array with fields x, y, t (integers of any unit, in any order) and
            p (0 or 1); an empty recording gives frames of zeros.
        num_steps: number of bins T.
        sensor: (height, width) of the sensor in pixels.
        size: (height, width) of the frames, no larger than the sensor.

    Returns:
        uint8 `[T, 2, height, width]`, counts above 255 kept at 255.

    Raises:
        ValueError: an event lies outside the sensor.
    """
    shape = (num_steps, 2, *size)
    if len(events) == 0:
        return np.zeros(shape, dtype=np.uint8)
    x, y, t = (events[field].astype(np.int64) for field in ("x", "y", "t"))
    if min(x.min(), y.min()) < 0 or y.max() >= sensor[0] or x.max() >= sensor[1]:
        raise ValueError(f"an event lies outside the {sensor[0]}x{sensor[1]} sensor")
    t -= t.min()
    step = t * num_steps // (t.max() + 1)
    rows, columns = y * size[0] // sensor[0], x * size[1] // sensor[1]
    polarity = events["p"].astype(bool).astype(np.int64)
    cell = np.ravel_multi_index((step, polarity, rows, columns), shape)
    counts = np.bincount(cell, minlength=int(np.prod(shape)))
    return np.minimum(counts, 255).astype(np.uint8).reshape(shape)
