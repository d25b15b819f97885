"""Transparency: what lies under it must not colour what is seen, and edges must not ring."""

import numpy as np

# How far, in pixels, colours grow into what is transparent.
REACH = 16

_NEIGHBOURS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def fill_hidden(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours with those of fully transparent pixels replaced by those of the nearest others.

    From pixel to pixel the mean of known neighbours, up to `REACH` pixels far; gray beyond. So
    what a pixel becomes depends on its surroundings alone, not on the window that is looked at.

    Args:
      color: float32 [h, w, C] in [0, 1].
      alpha: [h, w], 0 where the colour is not seen.
    """
    known = np.pad(alpha > 0, 1)
    filled = np.pad(np.where(alpha[:, :, None] > 0, color, np.float32(0)), ((1, 1), (1, 1), (0, 0)))
    inner = (slice(1, -1), slice(1, -1))
    if not known[inner].any():
        return np.full_like(color, 0.5)
    for _ in range(REACH):
        beside = np.zeros_like(known[inner])
        for i, j in _NEIGHBOURS:
            beside |= known[1 + i : known.shape[0] - 1 + i, 1 + j : known.shape[1] - 1 + j]
        y, x = np.nonzero(beside & ~known[inner])
        if not len(y):
            break
        total = np.zeros((len(y), color.shape[2]), np.float32)
        count = np.zeros((len(y), 1), np.float32)
        for i, j in _NEIGHBOURS:
            total += filled[y + 1 + i, x + 1 + j]
            count += known[y + 1 + i, x + 1 + j, None]
        filled[y + 1, x + 1] = total / count
        known[y + 1, x + 1] = True
    return np.where(known[inner][:, :, None], filled[inner], np.float32(0.5))


def within_neighbours(sr: np.ndarray, lr_image: np.ndarray, scale: int) -> np.ndarray:
    """SR limited to what the 3x3 LR pixels around hold, so that opaque stays so, and 0 stays 0.

    Args:
      sr: [s * (h - 2), s * (w - 2)].
      lr_image: [h, w], with a pixel more on each side than SR; same type.
      scale: s.
    """
    height, width = lr_image.shape[0] - 2, lr_image.shape[1] - 2
    around = [lr_image[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    low, high = (
        f.reduce(around).repeat(scale, axis=0).repeat(scale, axis=1)
        for f in (np.minimum, np.maximum)
    )
    return np.clip(sr, low, high)
