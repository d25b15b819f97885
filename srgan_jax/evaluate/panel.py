"""The comparison picture: methods side by side, whole and with an enlarged detail."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from srgan_jax.evaluate.score import Scored, Values

COLUMN = 384  # pixels, of each method
TALLEST = 4 * COLUMN  # a longer picture is shown compressed
DETAIL = 96  # side of the detail, in HR pixels
CAPTION = 44
GAP = 6


def of_scored(scored: Scored, titles: dict[str, str]) -> np.ndarray:
    """LR, what every method made of it, and HR; the detail is where the methods differ most.

    `titles`: of methods that are not shown by their own names.
    """
    pair = scored.pair
    columns = {"LR": (pair.lr_image, "{1}x{0}".format(*pair.lr_image.shape))}
    for method, sr in scored.outputs.items():
        columns[titles.get(method, method)] = (sr, caption(scored.values[method]))
    columns["HR"] = (pair.hr, "{1}x{0}".format(*pair.hr.shape))
    outputs = list(scored.outputs.values())
    return draw(columns, pair.hr, disagreement(outputs) if len(outputs) > 1 else detail_of(pair.hr))


def caption(values: Values) -> str:
    """PSNR and SSIM of one picture in words, in "modern" where that was measured; else nothing."""
    for convention in ("modern", *values):
        told = [
            text.format(values[convention][metric])
            for metric, text in (("psnr", "{:.2f} dB"), ("ssim", "SSIM {:.4f}"))
            if metric in values.get(convention, {})
        ]
        if told:
            return f"{'Y' if convention == 'modern' else convention}: {', '.join(told)}"
    return ""


def disagreement(outputs: list[np.ndarray]) -> np.ndarray:
    """How far methods' pictures, each [H, W, 3], are from each other at every pixel, [H, W]."""
    return np.std(np.stack(outputs).astype(np.float32), axis=0).mean(axis=2)


def detail_of(image: np.ndarray) -> np.ndarray:
    """How much happens at every pixel of an image [H, W, 3]: the gradient's length, [H, W]."""
    luma = image.astype(np.float64).mean(axis=2)
    energy = np.zeros_like(luma)
    energy[1:] += np.diff(luma, axis=0) ** 2
    energy[:, 1:] += np.diff(luma, axis=1) ** 2
    # Square roots, so that one hard edge does not outweigh a square full of texture.
    return np.sqrt(energy)


def best_square(interest: np.ndarray, side: int) -> tuple[int, int]:
    """Top left corner of the square of `interest` [H, W] with the largest sum."""
    total = np.pad(interest.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side]
    sums += total[:-side, :-side]
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(top), int(left)


def draw(
    columns: dict[str, tuple[np.ndarray, str]], hr: np.ndarray, interest: np.ndarray
) -> np.ndarray:
    """The panel, uint8 [H, W, 3].

    Args:
      columns: by title, the picture (uint8, the size of HR or a whole fraction of it) and a
        second caption line; drawn from left to right.
      hr: uint8 [H, W, 3].
      interest: [H, W]; the detail is where its sum is largest.
    """
    side = min(DETAIL, *hr.shape[:2])
    top, left = best_square(interest, side)
    height = min(max(round(COLUMN * hr.shape[0] / hr.shape[1]), 1), TALLEST)
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
