"""The comparison picture: methods side by side, whole and with an enlarged detail."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMN = 384  # pixels, of each method
DETAIL = 96  # side of the detail, in HR pixels
CAPTION = 44
GAP = 6


def busiest_square(hr: np.ndarray, side: int) -> tuple[int, int]:
    """Top left corner of the square of `hr` [H, W, 3] with the most gradient energy."""
    luma = hr.astype(np.float64).mean(axis=2)
    energy = np.zeros_like(luma)
    energy[1:] += np.diff(luma, axis=0) ** 2
    energy[:, 1:] += np.diff(luma, axis=1) ** 2
    # Square roots, so that one hard edge does not outweigh a square full of texture.
    total = np.pad(np.sqrt(energy), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side]
    sums += total[:-side, :-side]
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(top), int(left)


def draw(columns: dict[str, tuple[np.ndarray, str]], hr: np.ndarray) -> np.ndarray:
    """The panel, uint8 [H, W, 3].

    Args:
      columns: by title, the picture (uint8, the size of HR or a whole fraction of it) and a
        second caption line; drawn from left to right.
      hr: uint8 [H, W, 3], where the detail is chosen.
    """
    side = min(DETAIL, *hr.shape[:2])
    top, left = busiest_square(hr, side)
    height = round(COLUMN * hr.shape[0] / hr.shape[1])
    panel = Image.new(
        "RGB",
        (len(columns) * (COLUMN + GAP) - GAP, CAPTION + height + GAP + COLUMN),
        "white",
    )
    pen = ImageDraw.Draw(panel)
    large, small = ImageFont.load_default(18), ImageFont.load_default(14)
    for i, (title, (pixels, caption)) in enumerate(columns.items()):
        x = i * (COLUMN + GAP)
        pen.text((x + 2, 0), title, "black", large)
        pen.text((x + 2, 23), caption, "dimgray", small)
        picture = Image.fromarray(pixels)
        # LR is shown as its own pixels, as large as HR.
        picture = picture.resize((hr.shape[1], hr.shape[0]), Image.Resampling.NEAREST)
        detail = picture.crop((left, top, left + side, top + side))
        whole = picture.resize((COLUMN, height), Image.Resampling.LANCZOS)
        frame = [c * COLUMN // hr.shape[1] for c in (left, top, left + side, top + side)]
        ImageDraw.Draw(whole).rectangle(frame, outline="yellow", width=2)
        panel.paste(whole, (x, CAPTION))
        detail = detail.resize((COLUMN, COLUMN), Image.Resampling.NEAREST)
        panel.paste(detail, (x, CAPTION + height + GAP))
    return np.asarray(panel)
