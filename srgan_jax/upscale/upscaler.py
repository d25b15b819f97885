"""Pictures in memory, and rows of pictures that are never whole in memory, enlarged."""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from srgan_jax import images, pretrained, resample
from srgan_jax.errors import UserError
from srgan_jax.images import size_text
from srgan_jax.upscale import alpha as alpha_lib
from srgan_jax.upscale import interpolation, tiles
from srgan_jax.upscale.engine import Engine
from srgan_jax.upscale.rows import LEVELS, cropped, network_rows, quantised

MOST_SCALE = 16

# Bytes of SR that rows of windows may give, those of all pictures under way together, and of each
# at least: they are held twice or three times.
BAND_BYTES = 640 << 20
LEAST_BAND_BYTES = 32 << 20

# LR pixels that resampling sees far at most: two SR pixels of the smaller side, and rounding.
RESAMPLING_REACH = 4


class Upscaler:
    """A network ready to enlarge pictures of any size.

        upscaler = Upscaler()
        large = upscaler(PIL.Image.open("small.jpg"))

    Large pictures go through in tiles, with the bytes that they would have as a whole; programs
    are compiled once for each of a few sizes of tiles. Several threads may call it.
    """

    def __init__(
        self,
        weights: str | os.PathLike | None = None,
        *,
        sharpness: float = 1.0,
        scale: str | float | Fraction | None = None,
        tile: str | int = "auto",
        dtype: str = "auto",
        self_ensemble: bool = False,
        tileable: bool = False,
        alpha: str = "transparency",
        devices: str | int = "all",
    ):
        """Load the network.

        Args:
          weights: a generator's `.safetensors`, or the name of one that comes with the package;
            None for `pretrained.default()`.
          sharpness: 1 for that network; where it is an SRGAN, down to 0 for the SRResNet that it
            was trained from, which has to be beside it (`interpolation`).
          scale: output over input size; None for the network's. Other ones than the network's
            are reached by it and MATLAB's bicubic from there.
          tile: the longest side of a tile in LR pixels; "auto" for what the memory takes.
          dtype: what is computed in: "float32", "bfloat16", or "auto": float32 on a CPU, and for
            pictures of more than 8 bits.
          self_ensemble: the mean over the eight turned and mirrored pictures, at eight times the
            cost.
          tileable: the picture repeats itself beyond its borders, as textures do.
          alpha: "transparency": colours that it hides do not count; "data": it hides nothing.
          devices: how many, or "all".

        Raises: UserError, naming what is wrong.
        """
        self._generator, self._variables, digests = interpolation.load(
            pretrained.find(weights, "weights"), sharpness
        )
        self.network_scale = self._generator.scale
        self.scale = _scale(scale, self.network_scale)
        self.self_ensemble, self.tileable = self_ensemble, tileable
        for key, value, known in (
            ("dtype", dtype, ("auto", "float32", "bfloat16")),
            ("alpha", alpha, ("transparency", "data")),
        ):
            if value not in known:
                raise UserError(f"{key}={value}: not one of {', '.join(known)}")
        self._alpha = alpha
        self._radius = tiles.radius_of(self._generator)
        self._tile = _tile(tile, self._radius.whole + alpha_lib.REACH)
        self._devices = _devices(devices)
        on_cpu = self._devices[0].platform == "cpu"
        self._fast = {"auto": "float32" if on_cpu else "bfloat16"}.get(dtype, dtype)
        self._exact = {"auto": "float32"}.get(dtype, dtype)
        self.settings = {  # all that results depend on
            "weights": digests,
            "sharpness": float(sharpness),
            "scale": str(self.scale),
            "dtype": [self._fast, self._exact],
            "self_ensemble": self_ensemble,
            "tileable": tileable,
            "alpha": alpha,
        }
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    @property
    def at_once(self) -> int:
        """Pictures that are worth being worked on at the same time."""
        return self._engine("uint8").workers + 1

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that a picture of these gets."""
        return math.ceil(height * self.scale), math.ceil(width * self.scale)

    def __call__(self, picture: Any) -> Any:
        """Enlarge a picture, or several of one size.

        Args:
          picture: a Pillow image, turned as its EXIF orientation says; or an array [h, w],
            [h, w, C] or [N, h, w, C], C being 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB,
            alpha), uint8, uint16, or float32 in [0, 1].

        Returns: the same kind of thing, larger; of Pillow images the modes L, LA, RGB, RGBA and
          I;16 stay, others become one of them.
        Raises: ValueError for anything else; UserError where memory does not do.
        """
        if isinstance(picture, Image.Image):
            return self._pillow(picture)
        array = np.asarray(picture)
        if array.dtype.name not in LEVELS:
            raise ValueError(
                "a picture is a Pillow image, or an array of uint8, uint16 or float32, not"
                f" {type(picture).__name__} of {array.dtype}"
            )
        if array.dtype == np.float32 and not (array.min() >= 0 and array.max() <= 1):  # or NaN
            raise ValueError("a picture of float32 is in [0, 1]")
        if array.ndim == 2:
            return self._array(array[:, :, None])[:, :, 0]
        if array.ndim == 4:
            return np.stack([self._array(one) for one in array])
        return self._array(array)

    def _array(self, array: np.ndarray) -> np.ndarray:
        if array.ndim != 3 or not 1 <= array.shape[2] <= 4 or 0 in array.shape:
            raise ValueError(f"a picture is [h, w], [h, w, C] or [N, h, w, C], not {array.shape}")
        height, width, channels = array.shape
        return np.concatenate(list(self.rows([array], height, width, channels, array.dtype)))

    def _pillow(self, image: Image.Image) -> Image.Image:
        image = ImageOps.exif_transpose(image)
        kept: dict[Any, Any] = {
            k: image.info[k] for k in ("icc_profile", "exif") if k in image.info
        }
        pixels, converted = images.as_it_is(image)
        if converted:
            kept.pop("icc_profile", None)  # of another kind of colours
        sr = self._array(pixels)
        large = Image.fromarray(sr[:, :, 0] if sr.shape[2] == 1 else sr)
        large.info.update(kept)
        return large

    def rows(
        self,
        blocks: Iterable[np.ndarray],
        height: int,
        width: int,
        channels: int,
        dtype: Any,
        progress: Callable[[float], Any] = lambda share: None,
    ) -> Iterator[np.ndarray]:
        """Enlarge a picture that comes and goes row by row.

        Args:
          blocks: the picture from its top, [some rows, width, channels].
          height: of all blocks together.
          width: of each.
          channels: 1 to 4, as in `__call__`.
          dtype: uint8, uint16 or float32.
          progress: is called after each tile with its share of the picture; what it raises ends
            the work.

        Yields: the result from its top, [some rows, W, channels]; `size` gives how much in all.
        """
        name = np.dtype(dtype).name
        wanted = self.size(height, width)
        hides = channels in (2, 4) and self._alpha == "transparency"
        margin = 0
        if self.tileable:
            margin = self._margin(height, width, hides)
            around = ((margin, margin), (margin, margin), (0, 0))
            blocks = [np.pad(np.concatenate(list(blocks)), around, mode="wrap")]
            height, width = height + 2 * margin, width + 2 * margin
        resampled = self.scale != self.network_scale
        computed = "float32" if resampled or self.self_ensemble else name
        out = network_rows(
            self._engine(name),
            blocks,
            height,
            width,
            channels,
            computed=computed,
            hides=hides,
            self_ensemble=self.self_ensemble,
            longest=self._tile,
            band_bytes=max(BAND_BYTES // self.at_once, LEAST_BAND_BYTES),
            progress=progress,
        )
        if resampled:
            s = self.network_scale
            out = resample.bicubic_rows(out, height * s, width * s, self.scale / Fraction(s))
        border = int(margin * self.scale)
        for block in cropped(out, border, *wanted) if border else out:
            yield quantised(block, name) if resampled or self.self_ensemble else block

    def _margin(self, height: int, width: int, hides: bool) -> int:
        """LR pixels that are repeated around a tileable picture: a whole number of SR pixels."""
        of = self.scale.denominator
        if height % of or width % of:
            larger = f"{size_text(height, width)}, {float(self.scale):g} times larger,"
            raise UserError(
                f"{larger} would end within a pixel, which no seamless texture can: give another"
                " scale, such as 2"
            )
        reach = self._radius.whole + RESAMPLING_REACH + (alpha_lib.REACH if hides else 0)
        return -(-reach // of) * of

    def _engine(self, levels: str) -> Engine:
        dtype = self._fast if levels == "uint8" else self._exact
        with self._lock:
            if dtype not in self._engines:
                self._engines[dtype] = Engine(
                    self._generator, self._variables, self._devices, dtype
                )
            return self._engines[dtype]


def _scale(given: str | float | Fraction | None, of_network: int) -> Fraction:
    if given is None:
        return Fraction(of_network)
    try:
        scale = Fraction(str(given)).limit_denominator(1000)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"scale={given}: not a number such as 4, 2.5 or 3/2") from error
    if not 1 <= scale <= MOST_SCALE:
        raise UserError(f"scale={given}: not from 1 to {MOST_SCALE}")
    return scale


def _tile(given: str | int, radius: int) -> int | None:
    if given == "auto":
        return None
    least = 2 * radius + 16
    if not str(given).isdecimal() or int(given) < least:
        raise UserError(
            f"tile={given}: has to be auto, or a number of LR pixels from {least} on: this network"
            f" sees {radius} pixels far"
        )
    return int(given)


def _devices(given: str | int) -> list[jax.Device]:
    there = jax.local_devices()
    if given == "all":
        return there
    if not str(given).isdecimal() or not 1 <= int(given) <= len(there):
        raise UserError(f"devices={given}: has to be all, or a number from 1 to {len(there)}")
    return there[: int(given)]
