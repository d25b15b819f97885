"""jit and pmap on eight devices make the same steps as one device.

Plain gradient descent takes Adam's place: Adam divides each gradient by its own size, so that
one of nearly zero, whose sign is rounding, moves its parameter as far as any other.
"""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from srgan_jax import losses, optim
from srgan_jax.data.degradation import Degradation
from srgan_jax.errors import UserError
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator
from srgan_jax.parallel import Parallel
from srgan_jax.state import TrainState, init_variables, start_gan, start_pretraining
from srgan_jax.steps import Batch, GanRecipe, Recipe, gan_step, pretrain_step

pytestmark = pytest.mark.usefixtures("quick_compile")

STEPS = 3
BATCH = 8
CROP = 16
SGD = optax.sgd(0.01)  # at 0.1, D's rounding grows a hundredfold a step

PRETRAIN = Recipe(
    generator=Generator(blocks=1, channels=8),
    generator_tx=SGD,
    content=losses.ContentLoss(pixel=1.0, vgg=0.0, tv=1e-3),
    degradation=Degradation(4),
    ema_decay=0.5,
)
GAN = GanRecipe(
    **vars(PRETRAIN),
    discriminator=Discriminator(channels=4, dense=8),
    discriminator_tx=SGD,
    adversarial=losses.AdversarialLoss("nonsaturating", 0.1),
)
CASES = {
    "pretrain": (pretrain_step, PRETRAIN),
    "gan": (gan_step, GAN),
}
TWO_UPDATES = dataclasses.replace(GAN, discriminator_updates=2)


def random_variables(module, side: int):
    """As `init_variables`, but without compiling every initialiser."""
    rng = np.random.default_rng(0)

    def draw(path, form: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(form.shape[:-1])
        mean = 1.0 if path[-1].key in ("scale", "var") else 0.0
        spread = 0.2 if len(form.shape) == 1 else 1.0
        return rng.normal(mean, spread / np.sqrt(fan_in), form.shape).astype(np.float32)

    make = functools.partial(init_variables, module, input_shape=(1, side, side, 3))
    return jax.tree.map_with_path(draw, jax.eval_shape(make, jax.random.key(0)))


@pytest.fixture(scope="module")
def initial() -> dict:
    """The first state of each phase, on the host."""
    generator = random_variables(PRETRAIN.generator, CROP // 4)
    discriminator = random_variables(GAN.discriminator, CROP)
    pretrain = start_pretraining(generator, SGD, ema=True)
    gan = start_gan(pretrain, SGD, discriminator, SGD)
    return {pretrain_step: jax.device_get(pretrain), gan_step: jax.device_get(gan)}


def batch(number: int, size: int) -> Batch:
    """Crops of very unequal brightness: a device's share has other statistics than the whole."""
    rng = np.random.default_rng(number)
    levels = rng.integers(20, 236, (size, 1, 1, 3))
    crops = levels + rng.integers(-20, 20, (size, CROP, CROP, 3))
    seeds = rng.integers(0, 2**32, size, np.uint32)
    return Batch(crops.astype(np.uint8), rng.integers(0, 8, size, np.int32), seeds)


def run(
    parallel: Parallel,
    step,
    recipe: Recipe,
    state: TrainState,
    at_once: int = 1,
    steps: int = STEPS,
):
    """Some steps, so many a dispatch: the last state, and every step's metrics."""
    parts = recipe.batches_per_step

    def next_batches(first: int) -> Batch:
        several = [batch(first + i, parts * BATCH) for i in range(at_once)]
        return parallel.place_batches(jax.tree.map(lambda *x: np.stack(x), *several), parts)

    state = parallel.place_state(state)
    program = parallel.compile(step, recipe, None, at_once, state, {}, next_batches(0))
    metrics = []
    for first in range(0, STEPS, at_once):
        state, values = program(state, {}, next_batches(first))
        values = jax.device_get(values)
        metrics += [{name: x[i] for name, x in values.items()} for i in range(at_once)]
    return parallel.to_host(state), metrics


def distance(a, b) -> float:
    """Between two trees of arrays."""
    squares = [np.sum(np.square(x - y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    return float(np.sqrt(np.sum(squares)))


def parts_of(state: TrainState) -> dict:
    """What a step changes, group by group."""
    groups = {"generator": state.generator.variables, "ema": state.ema}
    if state.discriminator is not None:
        groups["discriminator"] = state.discriminator.variables
    return {
        (name, kind): getattr(variables, kind)
        for name, variables in groups.items()
        for kind in ("params", "batch_stats")
    }


@pytest.mark.parametrize(
    ("step", "recipe"),
    [
        *(pytest.param(*case, id=name) for name, case in CASES.items()),
        pytest.param(gan_step, TWO_UPDATES, id="two updates of D", marks=pytest.mark.slow),
    ],
)
def test_devices_and_modes_agree(step, recipe, initial):
    start = initial[step]
    one = Parallel("jit", jax.devices()[:1])
    expected, expected_metrics = run(one, step, recipe, start)
    assert expected.step == STEPS
    for mode, at_once in (("jit", 1), ("pmap", STEPS)):
        parallel = Parallel(mode)
        assert len(parallel.devices) == 8
        state, metrics = run(parallel, step, recipe, start, at_once)
        assert state.step == STEPS
        # Rounding was seen to make 2e-6 here and 2e-5 below.
        for found, wanted in zip(metrics, expected_metrics, strict=True):
            assert found.keys() == wanted.keys()
            for name in wanted:
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, err_msg=name)
        before, after, reference = map(parts_of, (start, state, expected))
        for group, values in reference.items():
            moved = distance(values, before[group])
            assert distance(after[group], values) < 1e-4 * moved, (mode, group)


# G's gradient is taken with the new D, which would differ between the parts: only one moves.
ONE_MOVES = [
    pytest.param(pretrain_step, PRETRAIN, id="pretrain"),
    pytest.param(
        gan_step,
        dataclasses.replace(GAN, discriminator_tx=optax.sgd(0.0)),
        id="G",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        gan_step,
        dataclasses.replace(GAN, generator_tx=optax.sgd(0.0)),
        id="D",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("step", "recipe"), ONE_MOVES)
def test_accumulated_gradients_are_the_mean_over_the_parts(step, recipe, initial):
    """Plain gradient descent is linear: so is the step in its gradients."""
    parallel, start = Parallel("jit", jax.devices()[:2]), initial[step]
    first_part = np.array([0, 1, 4, 5])  # half of each device's share

    def one_step(recipe: Recipe, crops: np.ndarray) -> tuple[dict, dict]:
        placed = parallel.place_batches(jax.tree.map(lambda x: x[None, crops], batch(0, BATCH)), 1)
        state = parallel.place_state(start)
        program = parallel.compile(step, recipe, None, 1, state, {}, placed)
        state, metrics = jax.device_get(program(state, {}, placed))
        return parts_of(state), jax.tree.map(lambda x: x[0], metrics)

    found, metrics = one_step(dataclasses.replace(recipe, accumulate=2), np.arange(BATCH))
    parts = [one_step(recipe, crops) for crops in (first_part, first_part + 2)]
    before = parts_of(start)
    for group, values in found.items():
        expected = jax.tree.map(lambda x, y: (x + y) / 2, *(part[group] for part, _ in parts))
        assert distance(values, expected) <= 1e-4 * distance(expected, before[group]), group
    losses = [part["loss/mse"] for _, part in parts]
    np.testing.assert_allclose(metrics["loss/mse"], np.mean(losses), rtol=1e-5)
    squares = [np.square(part["grad_sr/mse"]) for _, part in parts]
    np.testing.assert_allclose(metrics["grad_sr/mse"], np.sqrt(np.sum(squares)) / 2, rtol=1e-5)


@pytest.mark.slow
def test_a_shared_out_optimizer_makes_the_same_steps(initial, monkeypatch):
    monkeypatch.setattr(optim, "SMALLEST_SHARDED", 64)
    adam = optax.adam(1e-3)
    recipe = dataclasses.replace(GAN, generator_tx=adam, discriminator_tx=adam)
    start = initial[gan_step]
    start = jax.device_get(start_gan(start, adam, start.discriminator.variables, adam))
    whole, _ = run(Parallel("jit"), gan_step, recipe, start)
    recipe = dataclasses.replace(recipe, shard_optimizer=True)
    shared = Parallel("jit", shard_optimizer=True)
    state, _ = run(shared, gan_step, recipe, start)
    jax.tree.map(np.testing.assert_array_equal, state, whole)

    moments = jax.tree.leaves(shared.place_state(start).discriminator.opt_state)
    on_each = sum(x.addressable_shards[0].data.size for x in moments)
    assert on_each < 0.2 * sum(x.size for x in moments)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_batch_that_cannot_be_split(mode):
    parallel = Parallel(mode)
    parallel.check_batch(16)
    with pytest.raises(
        UserError, match=r"=16 .* 8 devices, in 4 parts \(config\.optim\.accumulate"
    ):
        parallel.check_batch(16, 4)
    with pytest.raises(UserError, match=r"config\.data\.batch_size=12 .* 8 devices"):
        parallel.check_batch(12)
    Parallel(mode, jax.devices()[:1]).check_batch(1)
