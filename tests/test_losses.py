"""Each loss by hand, in plain NumPy, and by its gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax import losses
from srgan_jax.losses import ContentLoss

KINDS = ("nonsaturating", "saturating", "linear", "lsgan")


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def total_variation(image: np.ndarray) -> float:
    total = 0.0
    for b, y, x, c in np.ndindex(image.shape):
        if y + 1 < image.shape[1]:
            total += abs(image[b, y + 1, x, c] - image[b, y, x, c])
        if x + 1 < image.shape[2]:
            total += abs(image[b, y, x + 1, c] - image[b, y, x, c])
    return total / len(image)


def feature_distance(sr: np.ndarray, hr: np.ndarray, scale: float) -> float:
    """Equation 5 read literally: squares over W * H, summed over the channels."""
    batch, height, width, _ = sr.shape
    return sum((scale * (a - b)) ** 2 for a, b in zip(sr.flat, hr.flat, strict=True)) / (
        batch * height * width
    )


HR = random_array(2, 3, 4, 3, seed=1)
REAL = random_array(5, seed=2)
VGG = ContentLoss(layers=(("relu2_2", 1.0),))

# Ours, the same in NumPy, and where to look at value and gradient.
CASES = {
    "mse": (
        lambda x: losses.mean_squared_error(x, jnp.asarray(HR, jnp.float32)),
        lambda x: np.mean((x - HR) ** 2),
        random_array(2, 3, 4, 3),
    ),
    "tv": (losses.total_variation, total_variation, random_array(2, 3, 4, 3)),
    "vgg": (
        lambda x: losses.feature_distance(
            VGG, {"relu2_2": x}, {"relu2_2": jnp.asarray(HR, jnp.float32)}
        ),
        lambda x: feature_distance(x, HR, 1 / 12.75),
        random_array(2, 3, 4, 3),
    ),
    "nonsaturating": (
        lambda x: losses.generator_adversarial("nonsaturating", x),
        lambda x: np.mean(-np.log(sigmoid(x))),
        random_array(5),
    ),
    "saturating": (
        lambda x: losses.generator_adversarial("saturating", x),
        lambda x: np.mean(np.log(1 - sigmoid(x))),
        random_array(5),
    ),
    "linear": (
        lambda x: losses.generator_adversarial("linear", x),
        lambda x: np.mean(1 - sigmoid(x)),
        random_array(5),
    ),
    "lsgan": (
        lambda x: losses.generator_adversarial("lsgan", x),
        lambda x: np.mean((x - 1) ** 2),
        random_array(5),
    ),
    "discriminator, fake": (
        lambda x: losses.discriminator_loss("nonsaturating", jnp.asarray(REAL, jnp.float32), x),
        lambda x: np.mean(-np.log(sigmoid(REAL))) + np.mean(-np.log(1 - sigmoid(x))),
        random_array(5),
    ),
    "discriminator, real": (
        lambda x: losses.discriminator_loss("linear", x, jnp.asarray(REAL, jnp.float32)),
        lambda x: np.mean(-np.log(sigmoid(x))) + np.mean(-np.log(1 - sigmoid(REAL))),
        random_array(5),
    ),
    "discriminator, lsgan": (
        lambda x: losses.discriminator_loss("lsgan", jnp.asarray(REAL, jnp.float32), x),
        lambda x: np.mean((REAL - 1) ** 2) + np.mean(x**2),
        random_array(5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    ours, theirs, at = CASES[name]
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(at, jnp.float32))
    np.testing.assert_allclose(value, theirs(at), rtol=1e-5)
    assert value.shape == ()
    differences = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-4
        differences[index] = (theirs(at + step) - theirs(at - step)) / 2e-4
    np.testing.assert_allclose(gradient, differences, rtol=1e-3, atol=1e-5)


def test_by_hand():
    image = jnp.array([[0.0, 1.0], [3.0, 7.0]]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(losses.mean_squared_error(image, 0.0 * image), 59 / 4)
    # Down 3 and 6, across 1 and 4; a second picture without variation halves the mean.
    np.testing.assert_allclose(losses.total_variation(image), 14)
    both = jnp.concatenate([image, jnp.ones_like(image)])
    np.testing.assert_allclose(losses.total_variation(both), 7)


def test_at_the_optimum_the_value_of_the_game_is_minus_log_4():
    """D = 1/2 everywhere."""
    zeros = jnp.zeros(3)
    for kind in ("nonsaturating", "saturating", "linear"):
        np.testing.assert_allclose(losses.discriminator_loss(kind, zeros, zeros), math.log(4))


def gradient_at(kind: str, logit: float) -> float:
    return float(jax.grad(lambda x: losses.generator_adversarial(kind, x))(jnp.array([logit]))[0])


def test_only_the_nonsaturating_loss_pulls_where_d_is_sure():
    for logit in (-20.0, -100.0):
        assert gradient_at("nonsaturating", logit) == pytest.approx(-1, rel=1e-6)
        assert abs(gradient_at("saturating", logit)) < 1e-8
        assert abs(gradient_at("linear", logit)) < 1e-8
    # Where D cannot tell, saturating and nonsaturating pull alike, by D = 1/2.
    assert gradient_at("nonsaturating", 0.0) == gradient_at("saturating", 0.0) == -0.5


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_raises_the_logits_of_sr(kind):
    assert gradient_at(kind, -1.0) < 0


@pytest.mark.parametrize("kind", KINDS)
def test_confident_logits_stay_finite(kind):
    for logit in (-1e4, 1e4):
        x = jnp.array([logit])
        assert jnp.isfinite(losses.generator_adversarial(kind, x))
        assert jnp.isfinite(losses.discriminator_loss(kind, x, x))
        assert math.isfinite(gradient_at(kind, logit))


def distance(sr: dict, hr: dict, **settings) -> float:
    as_float32 = [{k: jnp.asarray(v, jnp.float32) for k, v in x.items()} for x in (sr, hr)]
    return float(losses.feature_distance(ContentLoss(**settings), *as_float32))


def test_sum_and_mean_over_channels_differ_by_their_number():
    sr, hr = (
        {"relu5_4": random_array(1, 2, 3, 512)},
        {"relu5_4": random_array(1, 2, 3, 512, seed=1)},
    )
    total, mean = (distance(sr, hr, channels=channels) for channels in ("sum", "mean"))
    assert total == pytest.approx(512 * mean, rel=1e-5)
    assert distance(sr, hr) == total  # equation 5 read literally is the default


def test_features_are_scaled_by_the_papers_factor():
    sr, hr = {"relu5_4": np.full((1, 2, 2, 1), 12.75)}, {"relu5_4": np.zeros((1, 2, 2, 1))}
    assert distance(sr, hr) == pytest.approx(1)
    assert distance(sr, hr, feature_scale=1.0) == pytest.approx(12.75**2)
    assert 1 / distance(sr, hr, feature_scale=1.0) == pytest.approx(0.006, abs=2e-4)


def test_several_layers_are_a_weighted_sum():
    sr = {"relu2_2": np.ones((2, 4, 4, 8)), "relu5_4": np.ones((2, 1, 1, 16)), "other": np.ones(1)}
    hr = {name: 0 * x for name, x in sr.items()}
    layers = (("relu2_2", 1.0), ("relu5_4", 0.5))
    assert distance(sr, hr, layers=layers, feature_scale=1.0) == pytest.approx(8 + 0.5 * 16)
    layers = (("relu5_4", 2.0),)
    assert distance(sr, hr, layers=layers, feature_scale=1.0, channels="mean") == pytest.approx(2)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown adversarial loss 'hinge'"):
        losses.generator_adversarial("hinge", jnp.zeros(1))


def test_answers_are_one_for_real_and_zero_for_generated():
    logits = jnp.array([-50.0, 0.0, 50.0])
    np.testing.assert_allclose(losses.answers("nonsaturating", logits), [0, 0.5, 1], atol=1e-6)
    np.testing.assert_array_equal(losses.answers("lsgan", jnp.array([0.0, 1.0])), [0, 1])
