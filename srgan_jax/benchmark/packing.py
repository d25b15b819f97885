"""Packing a folder against decoding it: what a cache costs beside what the cores must do."""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from srgan_jax import files
from srgan_jax.benchmark import rates as rates_lib
from srgan_jax.benchmark.command import peak_memory
from srgan_jax.data import packed, sources
from srgan_jax.errors import UserError
from srgan_jax.monitor import say


def benchmark(config: ConfigDict, *, rounds: int) -> list[dict[str, Any]]:
    """Say, and return as rows, how many pictures/s of `data.path` are decoded and packed.

    Decoding: on all cores, what is read thrown away. Packing: into a new cache in a temporary
    folder of `data.cache`. In turns, after a first reading that warms the system's file cache.

    Raises: UserError where there is no folder, its pictures cannot be used, or the cache cannot be
      written.
    """
    data = config.data
    if data.source != "folder":
        raise UserError(
            "packing is measured on a folder: --config.data.source=folder --config.data.path=DIR"
        )
    if data.cache == "none":
        raise UserError(
            "config.data.cache=none: a cache is what is measured: leave it, or a folder"
        )
    listing = sources.list_folder(data.path, f"data.path={data.path}")
    count = len(listing.pictures)
    root = files.make_folder(data.cache or files.cache_folder(), "--config.data.cache")

    def decode() -> None:
        for _ in sources.in_order(sources.attempt, listing.pictures, False, ""):
            pass

    def pack() -> None:
        with tempfile.TemporaryDirectory(dir=root, prefix="benchmark-") as cache:
            packed.pack(source="folder", path=data.path, split="train", cache=cache)

    held = peak_memory(resource.RUSAGE_SELF)
    decode()
    measures: dict[str, Callable[[], None]] = {"decoded": decode, "packed": pack}
    rates: dict[str, list[float]] = {name: [] for name in measures}
    busy: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            before, used = time.perf_counter(), time.process_time()
            measure()
            took = time.perf_counter() - before
            rates[name].append(count / took)
            busy[name].append((time.process_time() - used) / took)
    cores = ", ".join(f"{name} {statistics.median(values):.2f}" for name, values in busy.items())
    say(
        f"{count} pictures, {rounds} rounds; cores busy of {sources.cores()}: {cores};"
        f" {(peak_memory(resource.RUSAGE_SELF) - held) / 1e6:.0f} MB of memory at most"
    )
    return rates_lib.rows(rates, "pictures")
