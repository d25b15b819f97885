"""Pictures in memory, and rows of pictures that are never whole in memory, enlarged."""

import collections
import concurrent.futures
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from srgan_jax import files, resample
from srgan_jax import weights as weights_lib
from srgan_jax.errors import UserError
from srgan_jax.upscale import alpha as alpha_lib
from srgan_jax.upscale import tiles
from srgan_jax.upscale.engine import Engine, Piece

SHIPPED = ("srgan", "srresnet")  # the names of weights that come with the package, once they do
MOST_SCALE = 16

# Bytes of SR that a row of windows may give: it is held twice or three times.
BAND_BYTES = 320 << 20

# LR pixels that resampling sees far at most: two SR pixels of the smaller side, and rounding.
RESAMPLING_REACH = 4

# The eight ways to turn and mirror a picture: (quarter turns, mirrored).
TURNS = tuple(itertools.product(range(4), (False, True)))

# By type: the highest level.
LEVELS = {"uint8": 255, "uint16": 65535, "float32": 1}

# Of pictures in Pillow: what each mode becomes, where it is not taken as it is.
_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB"}
_TAKEN = ("L", "LA", "RGB", "RGBA", "I;16")


class Upscaler:
    """A network ready to enlarge pictures of any size.

        upscaler = Upscaler("srgan.safetensors")
        large = upscaler(PIL.Image.open("small.jpg"))

    Large pictures go through in tiles, with the bytes that they would have as a whole; programs
    are compiled once for each of a few sizes of tiles. Several threads may call it.
    """

    def __init__(
        self,
        weights: str | os.PathLike,
        *,
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
          weights: a generator's `.safetensors`.
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
        exported = _load(weights)
        self.settings = {
            "weights": files.sha256(weights),
            "scale": str(scale),
            "dtype": dtype,
            "self_ensemble": self_ensemble,
            "tileable": tileable,
        }
        self._generator, self._variables = exported.generator, exported.variables
        self.metadata = exported.metadata
        self.network_scale = exported.generator.scale
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
            raise ValueError(f"a picture is uint8, uint16 or float32, not {array.dtype}")
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
        if image.mode == "P":
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        elif image.mode in _MODES:
            image = image.convert(_MODES[image.mode])
        elif image.mode not in _TAKEN:
            kept.pop("icc_profile", None)  # of another kind of colours
            image = image.convert("RGB")
        large = Image.fromarray(self(np.asarray(image)))
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
        margin = 0
        if self.tileable:
            margin = self._margin()
            around = ((margin, margin), (margin, margin), (0, 0))
            blocks = [np.pad(np.concatenate(list(blocks)), around, mode="wrap")]
            height, width = height + 2 * margin, width + 2 * margin
        resampled = self.scale != self.network_scale
        computed = "float32" if resampled or self.self_ensemble else name
        out = self._network_rows(blocks, height, width, channels, name, computed, progress)
        if resampled:
            s = self.network_scale
            out = resample.bicubic_rows(out, height * s, width * s, self.scale / Fraction(s))
        border = int(margin * self.scale)
        for block in _cropped(out, border, *wanted) if border else out:
            yield _quantised(block, name) if resampled or self.self_ensemble else block

    def _margin(self) -> int:
        """LR pixels that are repeated around a tileable picture: a whole number of SR pixels."""
        of = self.scale.denominator
        return -(-(self._radius.whole + RESAMPLING_REACH) // of) * of

    def _engine(self, levels: str) -> Engine:
        dtype = self._fast if levels == "uint8" else self._exact
        with self._lock:
            if dtype not in self._engines:
                self._engines[dtype] = Engine(
                    self._generator, self._variables, self._devices, jnp.dtype(dtype).type
                )
            return self._engines[dtype]

    def _network_rows(
        self,
        blocks: Iterable[np.ndarray],
        height: int,
        width: int,
        channels: int,
        given: str,
        computed: str,
        progress: Callable[[float], Any],
    ) -> Iterator[np.ndarray]:
        """What the network makes of rows of the type `given`, in the type `computed`."""
        engine = self._engine(given)
        s = self.network_scale
        hides = channels in (2, 4) and self._alpha == "transparency"
        radius = self._radius.whole + (alpha_lib.REACH if hides else 0)
        per_row = s * s * width * channels * np.dtype(computed).itemsize
        window = tiles.choose(
            height,
            width,
            radius,
            sizes=engine.sizes,
            area=engine.area,
            most_rows=max(BAND_BYTES // per_row, 1),
            longest=self._tile,
            familiar=engine.familiar,
        )
        held = _Rows(blocks, width, channels)
        columns = list(tiles.spans(0, width, width, window[1], radius))
        pending: collections.deque[_Tile] = collections.deque()
        for y in tiles.spans(0, height, height, window[0], radius):
            strip = held.take(y.start, min(y.start + window[0], height))
            band = np.empty((s * (y.end - y.first), s * width, channels), computed)
            for x in columns:
                pixels = strip[:, x.start : x.start + window[1]]
                piece = Piece(
                    pixels,
                    ((0, pixels.shape[0]), (0, pixels.shape[1])),
                    (y.first - y.start, y.end - y.start),
                    (x.first - x.start, x.end - x.start),
                )
                task = engine.pool.submit(
                    _enlarge, engine, piece, window, computed, hides, self.self_ensemble
                )
                share = (y.end - y.first) * (x.end - x.first) / (height * width)
                place = slice(s * x.first, s * x.end)
                pending.append(_Tile(task, band, place, x is columns[-1], share))
                while len(pending) > engine.workers:
                    yield from pending.popleft().finish(progress)
        while pending:
            yield from pending.popleft().finish(progress)


class _Tile(NamedTuple):
    """A piece of a band that is being computed."""

    task: concurrent.futures.Future
    band: np.ndarray
    columns: slice
    last: bool
    share: float

    def finish(self, progress: Callable[[float], Any]) -> Iterator[np.ndarray]:
        """Put it in its place, and yield the band if it is whole then."""
        self.band[:, self.columns] = self.task.result()
        progress(self.share)
        if self.last:
            yield self.band


class _Rows:
    """Rows that come in blocks, to be taken by position, as long as no earlier ones are asked."""

    def __init__(self, blocks: Iterable[np.ndarray], width: int, channels: int):
        """The blocks are [some rows, width, channels]."""
        self._blocks = iter(blocks)
        self._form = (width, channels)
        self._top = 0
        self._held: np.ndarray | None = None

    def take(self, start: int, end: int) -> np.ndarray:
        """The rows [start, end); those before `start` are let go. Raises: ValueError."""
        parts = [] if self._held is None else [self._held[start - self._top :]]
        have = sum(map(len, parts))
        while have < end - start:
            block = next(self._blocks, None)
            if block is None or block.shape[1:] != self._form:
                had = "no more rows" if block is None else list(block.shape)
                raise ValueError(f"rows of {list(self._form)} were to come, there are {had}")
            parts.append(block)
            have += len(block)
        self._held = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._top = start
        return self._held[: end - start]


def _enlarge(
    engine: Engine,
    piece: Piece,
    window: tuple[int, int],
    computed: str,
    hides: bool,
    self_ensemble: bool,
) -> np.ndarray:
    """The SR of a piece of a picture as it is: any type of `LEVELS`, one to four channels.

    Args:
      engine: the network.
      piece: its `pixels` are the picture's own, as they are.
      window: the size that the network is given them in.
      computed: the result's type.
      hides: whether alpha hides colours.
      self_ensemble: over all turns; `computed` has to be float32.
    """
    unit = piece.pixels.astype(np.float32) / LEVELS[piece.pixels.dtype.name]
    channels = unit.shape[2]
    gray = channels < 3

    def run(planes: np.ndarray, gray: bool) -> np.ndarray:
        outside = [(0, side - has) for side, has in zip(window, planes.shape, strict=False)]
        rgb = np.broadcast_to(planes, (*planes.shape[:2], 3))
        asked = piece._replace(pixels=np.pad(rgb, (*outside, (0, 0)), mode="symmetric"))
        if not self_ensemble:
            return engine.run(asked, computed, gray)
        turned = (turned_back(engine.run(turn(asked, *how), computed, gray), *how) for how in TURNS)
        return np.asarray(sum(turned), np.float32) / np.float32(len(TURNS))

    if channels in (1, 3):
        return run(unit, gray)
    seen = unit[:, :, -1]
    color = alpha_lib.fill_hidden(unit[:, :, :-1], seen) if hides else unit[:, :, :-1]
    own = piece.pixels[:, :, -1] if computed == piece.pixels.dtype.name else seen
    (top, bottom), (left, right) = piece.rows, piece.columns
    around = np.pad(own, 1, mode="edge")[top : bottom + 2, left : right + 2]
    if around.min() == around.max():
        s = engine.scale
        sr_alpha = np.full((s * (bottom - top), s * (right - left)), around[0, 0])
    else:
        sr_alpha = alpha_lib.within_neighbours(
            run(unit[:, :, -1:], True)[:, :, 0], around, engine.scale
        )
    return np.concatenate([run(color, gray), sr_alpha[:, :, None]], axis=2)


def turn(piece: Piece, quarters: int, mirrored: bool) -> Piece:
    """A piece turned to the left, then mirrored left to right."""
    pixels, inside, rows, columns = piece
    for _ in range(quarters):
        width = pixels.shape[1]
        pixels = np.rot90(pixels)
        inside, (rows, columns) = (
            (_from_end(pair[1], width), pair[0]) for pair in (inside, (rows, columns))
        )
    if mirrored:
        width = pixels.shape[1]
        pixels = pixels[:, ::-1]
        inside, columns = (inside[0], _from_end(inside[1], width)), _from_end(columns, width)
    return Piece(pixels, inside, rows, columns)


def turned_back(sr: np.ndarray, quarters: int, mirrored: bool) -> np.ndarray:
    """The SR of what `turn` gave, as the piece was."""
    return np.rot90(sr[:, ::-1] if mirrored else sr, -quarters)


def _from_end(part: tuple[int, int], length: int) -> tuple[int, int]:
    return length - part[1], length - part[0]


def _quantised(rows: np.ndarray, levels: str) -> np.ndarray:
    """Float32 as whole levels, rounded half up and clipped; as [0, 1] where no levels are asked."""
    if levels == "float32":
        return np.clip(rows, 0, 1)
    most = LEVELS[levels]
    return np.clip(np.floor(rows * np.float32(most) + np.float32(0.5)), 0, most).astype(levels)


def _cropped(
    blocks: Iterable[np.ndarray], border: int, height: int, width: int
) -> Iterator[np.ndarray]:
    """Rows and columns from `border` on, so many."""
    top = 0
    for block in blocks:
        part = block[max(border - top, 0) : max(border + height - top, 0)]
        if len(part):
            yield part[:, border : border + width]
        top += len(block)


def _load(path: str | os.PathLike) -> weights_lib.Exported:
    if path in SHIPPED and not os.path.exists(path):
        raise UserError(
            f"weights={path}: no trained weights come with this version: give a file, such as the"
            f" {path}.safetensors of a run, or what `python -m srgan_jax.convert` makes"
        )
    return weights_lib.load_generator(path)


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
