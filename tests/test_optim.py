"""Learning rates at the boundaries, as updates feel them."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srgan_jax import config, recipes
from srgan_jax.optim import Schedule, adam
from srgan_jax.steps import GanRecipe


def rates(schedule: Schedule, steps: int, *at: int) -> list[float]:
    made = schedule.make(steps)
    return [float(made(step)) for step in at]


def step_sizes(tx: optax.GradientTransformation, steps: int) -> np.ndarray:
    """How far each update moves one parameter of constant gradient: Adam's is the rate."""
    param, state, sizes = jnp.ones(()), tx.init(jnp.ones(())), []
    for _ in range(steps):
        updates, state = tx.update(jnp.ones(()), state, param)
        param, before = optax.apply_updates(param, updates), param
        sizes.append(float(before - param))
    return np.array(sizes)


def test_the_papers_srgan_steps_down_at_half():
    """1e5 updates at 1e-4, then 1e5 at 1e-5."""
    paper = Schedule(1e-4, "step")
    values = rates(paper, 200_000, 0, 99_999, 100_000, 199_999)
    np.testing.assert_allclose(values, [1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    tx = adam(Schedule(0.1, "step").make(6), beta1=0.9, beta2=0.999, epsilon=1e-8)
    np.testing.assert_allclose(step_sizes(tx, 6), 3 * [0.1] + 3 * [0.01], rtol=1e-4)


def test_constant():
    np.testing.assert_allclose(rates(Schedule(1e-4), 1_000_000, 0, 1, 999_999), 1e-4, rtol=1e-6)


def test_step_elsewhere():
    schedule = Schedule(1.0, "step", decay_at=0.75, decay_factor=0.5)
    np.testing.assert_allclose(rates(schedule, 100, 0, 74, 75, 99), [1, 1, 0.5, 0.5])


def test_cosine_ends_at_its_factor():
    schedule = Schedule(2.0, "cosine", decay_factor=0.1)
    values = rates(schedule, 1000, 0, 250, 500, 1000, 2000)
    at_quarter = 0.2 + 1.8 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(values, [2, at_quarter, 1.1, 0.2, 0.2], rtol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "step", "cosine"])
def test_warm_up_is_linear_and_leaves_the_rest_where_it_was(kind):
    schedule = Schedule(1.0, kind, warmup_steps=10)
    values = rates(schedule, 100, 0, 1, 5, 9, 10)
    np.testing.assert_allclose(values, [0.1, 0.2, 0.6, 1, 1], rtol=1e-6)
    late = {"constant": [1, 1, 1], "step": [1, 0.1, 0.1]}.get(kind)
    if kind == "cosine":  # from 10 to 100
        late = [0.1 + 0.9 * (1 + np.cos(np.pi * t / 90)) / 2 for t in (39, 40, 90)]
    np.testing.assert_allclose(rates(schedule, 100, 49, 50, 100), late, rtol=1e-5)


def test_a_phase_of_no_steps_has_a_schedule():
    for kind in ("constant", "step", "cosine"):
        assert np.isfinite(Schedule(1e-4, kind).make(0)(0))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown schedule 'linear'"):
        Schedule(1e-4, "linear").make(10)


def test_adam_by_hand():
    rng = np.random.default_rng(0)
    beta1, beta2, epsilon = 0.8, 0.95, 1e-2
    param = rng.normal(size=4)
    tx = adam(Schedule(0.1).make(10), beta1=beta1, beta2=beta2, epsilon=epsilon)
    ours = jnp.asarray(param, jnp.float32)
    state, first, second = tx.init(ours), np.zeros(4), np.zeros(4)
    for t in range(1, 4):
        grad = rng.normal(size=4)
        first = beta1 * first + (1 - beta1) * grad
        second = beta2 * second + (1 - beta2) * grad**2
        param = param - 0.1 * (first / (1 - beta1**t)) / (
            np.sqrt(second / (1 - beta2**t)) + epsilon
        )
        updates, state = tx.update(jnp.asarray(grad, jnp.float32), state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, param, rtol=1e-5)


def test_both_networks_rates_fall_at_the_same_moment():
    """Also where D has two updates for each of G's."""
    c = config.paper()
    c.gan.content = {"pixel": 1.0, "vgg": 0.0, "tv": 0.0}
    c.gan.learning_rate = 0.1
    c.gan.discriminator_updates = 2
    recipe = recipes.make_phases(c, [0, 4], None, {})[1].recipe
    assert isinstance(recipe, GanRecipe)
    np.testing.assert_allclose(
        step_sizes(recipe.generator_tx, 4), [0.1, 0.1, 0.01, 0.01], rtol=1e-4
    )
    expected = 4 * [0.1] + 4 * [0.01]
    np.testing.assert_allclose(step_sizes(recipe.discriminator_tx, 8), expected, rtol=1e-4)
