"""Rows of a picture through an engine: cut into windows, and put together again."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from srgan_jax.upscale import alpha as alpha_lib
from srgan_jax.upscale import tiles
from srgan_jax.upscale.engine import Engine, Piece

# The eight ways to turn and mirror a picture: (quarter turns, mirrored).
TURNS = tuple(itertools.product(range(4), (False, True)))

# By type: the highest level.
LEVELS = {"uint8": 255, "uint16": 65535, "float32": 1}


def network_rows(
    engine: Engine,
    blocks: Iterable[np.ndarray],
    height: int,
    width: int,
    channels: int,
    *,
    computed: str,
    hides: bool,
    self_ensemble: bool,
    longest: int | None,
    band_bytes: int,
    progress: Callable[[float], Any],
) -> Iterator[np.ndarray]:
    """What a network makes of a picture, by bands from its top, [some rows, s * width, channels].

    Args:
      engine: the network.
      blocks: the picture from its top, [some rows, width, channels], of a type of `LEVELS`.
      height: of all blocks together.
      width: of each.
      channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
      computed: the result's type: the picture's, or float32.
      hides: whether alpha hides colours.
      self_ensemble: the mean over all turns; `computed` has to be float32.
      longest: side of a window, None for what memory takes.
      band_bytes: that a band may have, where the smallest window allows.
      progress: is called after each window with its share of the picture.
    """
    s = engine.scale
    radius = engine.radius.whole + (alpha_lib.REACH if hides else 0)
    per_row = s * s * width * channels * np.dtype(computed).itemsize
    window = tiles.choose(
        height,
        width,
        radius,
        sizes=engine.sizes,
        area=engine.area,
        most_rows=max(band_bytes // per_row, 1),
        longest=longest,
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
                _enlarge, engine, piece, window, computed, hides, self_ensemble
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


def quantised(rows: np.ndarray, levels: str) -> np.ndarray:
    """Float32 as whole levels, rounded half up and clipped; as [0, 1] where no levels are asked."""
    if levels == "float32":
        return np.clip(rows, 0, 1)
    most = LEVELS[levels]
    return np.clip(np.floor(rows * np.float32(most) + np.float32(0.5)), 0, most).astype(levels)


def cropped(
    blocks: Iterable[np.ndarray], border: int, height: int, width: int
) -> Iterator[np.ndarray]:
    """Rows and columns from `border` on, so many."""
    top = 0
    for block in blocks:
        part = block[max(border - top, 0) : max(border + height - top, 0)]
        if len(part):
            yield part[:, border : border + width]
        top += len(block)
