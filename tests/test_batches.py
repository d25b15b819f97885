"""The same batches from pictures on the host and on any number of devices."""

import itertools
import os
import pathlib
import time

import flax
import jax
import numpy as np
import pytest

from srgan_jax import images, rng, supply
from srgan_jax.data import packed, resident, sampling
from srgan_jax.data.batches import Batches, Calls, read_ahead
from srgan_jax.data.degradation import Batch
from srgan_jax.data.packed import Packed
from srgan_jax.data.resident import Resident, ResidentSource
from srgan_jax.data.sampling import Sampling
from srgan_jax.errors import UserError
from srgan_jax.parallel import Parallel

pytestmark = pytest.mark.usefixtures("quick_compile")

KEY = rng.stream(0, "crops")
SCALE = 4
CROP = 16
# One wider than a block of the store, one exactly a crop; bytes are no multiple of a block.
SIZES = [(40, 212), (33, 61), (16, 16), (90, 41), (52, 17), (27, 44)]


def pack(folder: pathlib.Path, pictures: list[np.ndarray]) -> Packed:
    for i, pixels in enumerate(pictures):
        images.write(folder / f"{i}.png", pixels)
    made, _ = packed.pack(source="folder", path=str(folder), split="train", cache="none")
    return made


@pytest.fixture(scope="module")
def hr(noise, tmp_path_factory) -> Packed:
    return pack(tmp_path_factory.mktemp("hr"), [noise(*size) for size in SIZES])


@pytest.fixture(scope="module")
def lr_image(noise, tmp_path_factory) -> Packed:
    sizes = [(height // SCALE, width // SCALE) for height, width in SIZES]
    return pack(tmp_path_factory.mktemp("lr"), [noise(*size, seed=1) for size in sizes])


def parts_of(hr: Packed, lr_image: Packed | None, batch_size: int = 4, **settings):
    """How crops are drawn, and the pictures' table."""
    heights, widths = hr.heights, hr.widths
    if lr_image is not None:
        heights, widths = SCALE * lr_image.heights, SCALE * lr_image.widths
        settings["grid"] = SCALE
    uniform_over = settings.pop("uniform_over", "pictures")
    sizes = sampling.tabulate(heights, widths, uniform_over=uniform_over, crop=CROP)
    return Sampling(batch_size, CROP, int(sizes.last_cell[-1]), **settings), sizes


def host(hr: Packed, lr_image: Packed | None = None, **settings) -> Batches:
    return Batches(KEY, *parts_of(hr, lr_image, **settings), hr, lr_image, SCALE)


@flax.struct.dataclass
class Counter:
    step: jax.Array


def echo(recipe, state: Counter, vgg_params, batch: Batch, axis_name=None):
    """A step that gives its batch back, from the devices together."""
    if axis_name is not None:
        batch = jax.lax.all_gather(batch, axis_name)
    return Counter(state.step + 1), batch


def echoed(parallel: Parallel, source: ResidentSource | None, data) -> Batch:
    """The batches of two steps, as the step sees them."""
    state = parallel.replicate(Counter(np.int32(0)))
    program = parallel.compile(echo, None, source, 2, state, {}, data)
    state, batches = program(state, {}, data)
    assert state.step == 2
    return jax.device_get(batches)


def assert_same(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# On the host


def test_batches_are_the_planned_slices(hr, noise):
    batches = host(hr)
    for number in (0, 7, 3):
        found = batches(number)
        assert found.crops.shape == (4, CROP, CROP, 3)
        assert found.crops.dtype == np.uint8
        assert found.lr_crops is None
        how, sizes = parts_of(hr, None)
        plan = sampling.plan_crops(how, KEY, np.int32(number), sizes)
        np.testing.assert_array_equal(found.codes, plan.code)
        np.testing.assert_array_equal(found.seeds, plan.seed)
        for crop, i, (y,), (x,) in zip(found.crops, *map(np.asarray, plan[:3]), strict=True):
            np.testing.assert_array_equal(crop, noise(*SIZES[i])[y : y + CROP, x : x + CROP])


def test_several_batches_are_one_after_the_other(hr):
    batches = host(hr, batch_size=2)
    together, apart = batches(3, 3), [batches(number) for number in (3, 4, 5)]
    assert together.crops.shape == (6, CROP, CROP, 3)
    assert_same(together, jax.tree.map(lambda *x: np.concatenate(x), *apart))


def test_given_lr_pictures_are_cut_where_hr_is(hr, tmp_path):
    """LR pictures that are every fourth pixel of HR stay so in the crops."""
    cut = [
        hr.picture(i)[: h // SCALE * SCALE, : w // SCALE * SCALE] for i, (h, w) in enumerate(SIZES)
    ]
    every = pack(tmp_path, [image[::SCALE, ::SCALE] for image in cut])
    found = host(hr, every, batch_size=6)(2, 3)
    assert found.lr_crops.shape == (18, CROP // SCALE, CROP // SCALE, 3)
    np.testing.assert_array_equal(found.crops[:, ::SCALE, ::SCALE], found.lr_crops)


def test_crops_without_detail_are_passed_over(tmp_path):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 40:] = np.random.default_rng(0).integers(0, 256, (64, 24, 3))
    flat = np.zeros((20, 20, 3), np.uint8)
    pictures = pack(tmp_path, [image, flat])
    found = host(pictures, batch_size=2, min_detail=5.0)(0, 40)
    of_half = found.crops.max(axis=(1, 2, 3)) > 0
    assert of_half.sum() > 38  # without: 40 * (24 + 15) / 49 = 32
    assert len(found.crops) == 80  # the flat picture has nothing better, and is shown all the same
    empty = host(pictures, batch_size=2)(0, 40).crops.max(axis=(1, 2, 3)) == 0
    assert empty.sum() > 42


# On the devices

CASES = {
    "plain": ({}, False, 1),
    "all at once": (
        {"uniform_over": "pixels", "min_detail": 86.0, "batch_size": 8}, True, 2
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "paired", "parts"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize(("devices", "sharded"), [(1, False), (4, False), (4, True)])
def test_devices_cut_the_hosts_batches(
    hr, lr_image, settings, paired, parts, mode, devices, sharded
):
    lr_image = lr_image if paired else None
    how, sizes = parts_of(hr, lr_image, **settings)
    parallel = Parallel(mode, jax.devices()[:devices])
    source = ResidentSource(how, SCALE, 3, parts, devices, sharded)
    shards = devices if sharded else 1
    data = parallel.place_pictures(
        Resident(
            np.arange(devices, dtype=np.int32),
            KEY,
            sizes,
            resident.store(hr),
            resident.store(lr_image) if paired else None,
        ),
        source,
    )
    held = data.hr.blocks.addressable_shards[0].data
    assert held.nbytes <= hr.blocks.nbytes / shards + packed.BLOCK
    found = echoed(parallel, source, data)

    batches = host(hr, lr_image, **settings)
    by_step = [batches(3 + step * parts, parts) for step in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *by_step)
    assert_same(found, echoed(parallel, None, parallel.place_batches(stacked, parts)))

    def joined(x: np.ndarray) -> np.ndarray:  # [steps, devices, parts * b, ...] of all devices
        x = x.reshape(len(x), devices, parts, -1, *x.shape[3:]).swapaxes(1, 2)
        return x.reshape(len(x), -1, *x.shape[4:])

    assert_same(stacked, found if devices == 1 else jax.tree.map(joined, found))


# Dispatches


@pytest.mark.parametrize(
    ("start", "stop", "length"), [(0, 10, 4), (3, 12, 4), (5, 5, 2), (0, 3, 1)]
)
def test_calls_cover_the_steps_and_end_at_multiples(start, stop, length):
    calls = list(Calls(start, stop, length))
    assert len(calls) == len(Calls(start, stop, length))
    covered = list(itertools.chain(*(range(first, first + n) for first, n in calls)))
    assert covered == list(range(start, stop))
    ends = [first + n for first, n in calls]
    assert all(end % length == 0 or end == stop for end in ends)
    for end in ends:  # continued there, the same are left
        assert list(Calls(end, stop, length)) == [call for call in calls if call[0] >= end]


def test_reading_ahead_keeps_the_order_and_no_more_than_asked(monkeypatch):
    made = []

    def make(call):
        time.sleep(0.02 if call[0] % 2 else 0.0)
        made.append(call[0])
        return call[0]

    with read_ahead(make, Calls(4, 40, 1)) as values:
        assert [next(values) for _ in range(6)] == [4, 5, 6, 7, 8, 9]
        time.sleep(0.2)
        assert len(made) <= 6 + 4  # asked for, in the buffer, in work
    with read_ahead(make, Calls(4, 7, 1)) as values:
        assert list(values) == [4, 5, 6]


def test_what_goes_wrong_while_reading_ahead_is_raised():
    def make(call):
        if call[0] == 2:
            raise UserError("a.png: vanished")
        return call[0]

    with read_ahead(make, Calls(0, 5, 1)) as values:
        assert next(values) == 0
        assert next(values) == 1
        with pytest.raises(UserError, match=r"a\.png: vanished"):
            next(values)


# Where pictures go


@pytest.mark.parametrize(
    ("placement", "size", "devices", "expected"),
    [
        ("auto", 299, 1, "device"),
        ("auto", 301, 1, "host"),
        ("auto", 301, 4, "sharded"),
        ("auto", 1201, 4, "host"),
        ("device", 1201, 4, "sharded"),
        ("device", 301, 1, "device"),
    ],
)
def test_pictures_go_where_they_fit(monkeypatch, placement, size, devices, expected):
    monkeypatch.setattr(supply, "memory", lambda device: 1000)
    assert supply.fitting(placement, size, jax.devices()[:devices]) == expected


def test_pictures_that_fit_nowhere_are_refused(monkeypatch):
    monkeypatch.setattr(supply, "memory", lambda device: 10**9)
    with pytest.raises(
        UserError, match=r"placement=device: .* 4\.5 GB, but the devices have 4\.0 GB"
    ):
        supply.fitting("device", 4_500_000_000, jax.devices()[:4])


def test_cpu_devices_share_the_machines_memory():
    found = supply.memory(jax.devices()[0]) * len(jax.devices())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**28 < found <= pages
