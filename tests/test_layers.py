"""The layers are what they say, in every form that some platform is given."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax import config as config_lib
from srgan_jax.benchmark import counts
from srgan_jax.models import operations
from srgan_jax.models.generator import Generator
from srgan_jax.models.layers import BatchNorm, Conv, PReLU
from srgan_jax.models.vgg import VGG19, compared
from srgan_jax.state import init_variables

pytestmark = pytest.mark.usefixtures("quick_compile")


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def pulled(function, *args, seed=1):
    """What a function gives, and its gradients for one random gradient."""
    result, pull_back = jax.vjp(function, *args)
    return result, *pull_back(normal(*result.shape, seed=seed).astype(result.dtype))


def assert_same(ours, theirs, **tolerance):
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, **({"rtol": 1e-4, "atol": 1e-4} | tolerance))


@pytest.mark.parametrize("side", [3, 9])
def test_a_narrow_convolution_is_the_convolution(side):
    args = normal(2, 12, 15, 5), normal(side, side, 5, 3)
    assert_same(pulled(operations.last_conv, *args), pulled(operations.plain_conv, *args))


def test_forms_of_other_platforms():
    """What is not run on CPUs, run on one."""
    x, kernel, gradient = normal(2, 12, 15, 5), normal(9, 9, 5, 3), normal(2, 12, 15, 3, seed=1)
    expected = jax.vjp(lambda kernel: operations.plain_conv(x, kernel), kernel)[1](gradient)[0]
    ours = operations._kernel_gradient(kernel, x, gradient)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_are_lowered_for_gpus_and_tpus(dtype):
    """With their own forms, and with those types that they need."""
    config = config_lib.paper()
    config.dtype = dtype
    config.generator.blocks = 1
    for form in counts.forms(config):
        step = jax.jit(functools.partial(form.step, form.phase.recipe))
        arguments = form.state, form.vgg_params, form.batch(2)
        for platform in ("cuda", "tpu"):
            text = step.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
            convolutions = [line for line in text.splitlines() if "stablehlo.convolution(" in line]
            made = [line for line in convolutions if "xbf16>" in line]
            assert len(made) == (len(convolutions) if dtype == "bfloat16" else 0) < 100
            assert len(convolutions) >= 20


@pytest.mark.parametrize(("height", "width"), [(6, 10), (2, 2)])
def test_a_halving_convolution_is_the_convolution(height, width):
    args = normal(2, height, width, 5), normal(3, 3, 5, 4)

    def plain(x, kernel):
        return operations.plain_conv(x, kernel, stride=2)

    assert_same(pulled(operations.halving_conv, *args), pulled(plain, *args))


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("side", [3, 9])
def test_the_pixel_shuffle_may_come_after_the_convolution(side, factor):
    args = normal(2, 5, 7, factor**2 * 4), normal(side, side, 4, 3)

    def before(x, kernel):
        return operations.plain_conv(operations.depth_to_space(x, factor), kernel)

    def after(x, kernel):
        wide = operations.shuffled_kernel(kernel, factor)
        return operations.depth_to_space(operations.plain_conv(x, wide), factor)

    assert_same(pulled(after, *args), pulled(before, *args))


@pytest.mark.parametrize("per_channel", [False, True])
def test_layers_before_the_shuffle_are_those_after_it(per_channel):
    x = normal(2, 5, 7, 16)
    prelu = PReLU(per_channel, shuffle=2)
    params = {"slope": jnp.arange(1.0, 5.0) if per_channel else jnp.array([0.3])}
    after = PReLU(per_channel).apply({"params": params}, operations.depth_to_space(x, 2))
    before = operations.depth_to_space(prelu.apply({"params": params}, x), 2)
    np.testing.assert_array_equal(before, after)

    params = {"kernel": normal(9, 9, 4, 3), "bias": normal(3)}
    after = Conv(3, 9).apply({"params": params}, operations.depth_to_space(x, 2))
    before = Conv(3, 9, shuffle=2, last=True).apply({"params": params}, x)
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_sums_and_spreading_are_each_others_gradient():
    x, vectors = normal(6, 3, 4, 5), normal(2, 5)
    shape = x.shape

    def plain_sum(x):
        return x.reshape(2, -1, 5).sum(1)

    def plain_spread(vectors):
        return jnp.repeat(vectors, 3, axis=0)[:, None, None] + jnp.zeros(shape)

    assert_same(pulled(lambda x: operations.channel_sum(x, 2), x), pulled(plain_sum, x))
    spread = pulled(lambda vectors: operations.spread(vectors, shape), vectors)
    assert_same(spread, pulled(plain_spread, vectors))
    one = pulled(lambda vector: operations.spread(vector, shape), vectors[0])
    assert one[0].shape == shape
    assert one[1].shape == (5,)


def test_sums_are_as_good_as_sums_in_parts():
    x = 10 + normal(2, 262_144, 2)
    exact = np.asarray(x, np.float64)
    ours = operations.channel_sum(x, 2)
    np.testing.assert_allclose(ours, exact.sum(1), rtol=2e-6)
    # One part does not reach the other, whatever it holds.
    assert jnp.isfinite(operations.channel_sum(x.at[1].set(jnp.inf), 2)[0]).all()
    _, updates = trained(BatchNorm(True), {
        "params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
        "batch_stats": {"mean": jnp.zeros(2), "var": jnp.zeros(2)},
    }, x)  # fmt: skip
    var = exact.var((0, 1))
    np.testing.assert_allclose(updates["batch_stats"]["var"] / 0.1, var, rtol=2e-4)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5)])
def test_pooling_is_flaxs_also_among_equals(height, width):
    x = jnp.round(normal(2, height, width, 3))  # with many equals

    def flaxs(x):
        return nn.max_pool(x, (2, 2), strides=(2, 2))

    ours, theirs = pulled(operations.max_pool, x), pulled(flaxs, x)
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(own, other)


def trained(module, variables, x, **kwargs):
    return module.apply(variables, x, mutable=["batch_stats"], **kwargs)


def flax_norm(train):
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)


def norm_variables():
    params = {"scale": 1 + 0.1 * normal(5), "bias": normal(5, seed=1)}
    return params, {"mean": normal(5, seed=2), "var": jnp.exp(normal(5, seed=3))}


def test_normalisation_is_flaxs():
    x = 3 * normal(4, 6, 7, 5) + 2
    params, stats = norm_variables()

    def run(module, params, x):
        return trained(module, {"params": params, "batch_stats": stats}, x)[0]

    def ours(params, x):
        return run(BatchNorm(True), params, x)

    def theirs(params, x):
        return run(flax_norm(True), params, x)

    assert_same(
        jax.tree.leaves(pulled(ours, params, x)), jax.tree.leaves(pulled(theirs, params, x))
    )
    variables = {"params": params, "batch_stats": stats}
    (_, ours), (_, theirs) = (trained(m, variables, x) for m in (BatchNorm(True), flax_norm(True)))
    assert_same(jax.tree.leaves(ours), jax.tree.leaves(theirs), rtol=1e-5)
    ours, theirs = (m.apply(variables, x) for m in (BatchNorm(False), flax_norm(False)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_groups_are_normalised_as_in_passes():
    parts = normal(4, 6, 7, 5), 2 * normal(4, 6, 7, 5, seed=9) - 1
    params, stats = norm_variables()
    singles = []
    for part in parts:
        y, updates = trained(BatchNorm(True), {"params": params, "batch_stats": stats}, part)
        stats = updates["batch_stats"]
        singles.append(y)
    _, first = norm_variables()
    variables = {"params": params, "batch_stats": first}
    both, updates = trained(BatchNorm(True, groups=2), variables, jnp.concatenate(parts))
    np.testing.assert_allclose(both, jnp.concatenate(singles), rtol=1e-5, atol=1e-5)
    assert_same(jax.tree.leaves(updates["batch_stats"]), jax.tree.leaves(stats), rtol=1e-5)

    def grouped(x):
        return trained(BatchNorm(True, groups=2), variables, x)[0]

    def single(x):
        passes = (trained(BatchNorm(True), variables, part)[0] for part in jnp.split(x, 2))
        return jnp.concatenate(list(passes))

    x = jnp.concatenate(parts)
    assert_same(pulled(grouped, x), pulled(single, x))


def test_a_bias_that_is_normalised_away_gets_no_gradient():
    module = Generator(blocks=1, channels=4)
    x = jax.random.uniform(jax.random.key(0), (2, 6, 6, 3))
    variables = init_variables(module, jax.random.key(1), x.shape).as_flax()
    stats = variables["batch_stats"]

    @jax.jit
    def result(params):
        sr, _ = trained(module, {"params": params, "batch_stats": stats}, x, train=True)
        return sr

    sr = result(variables["params"])
    grads = jax.vjp(result, variables["params"])[1](normal(*sr.shape))[0]
    normed = {"block0_conv1", "block0_conv2", "conv_mid"}
    for name, layer in grads.items():
        for leaf in layer.values():
            assert jnp.any(leaf != 0) or name in normed
        if name in normed:
            assert not jnp.any(layer["bias"])
    # What it would be is rounding: the result does not depend on the bias.
    for name in normed:
        variables["params"][name]["bias"] += 1.0
    np.testing.assert_allclose(result(variables["params"]), sr, atol=1e-4)


def test_sr_and_hr_are_compared_in_one_pass():
    vgg = VGG19(layers=("conv1_2", "relu2_1", "pool2"))
    sr, hr = jnp.tanh(normal(2, 12, 16, 3)), jnp.tanh(normal(2, 12, 16, 3, seed=1))
    params = vgg.init(jax.random.key(0), sr)["params"]

    def distance(ours, theirs):
        return sum(jnp.sum(jnp.square(ours[name] - theirs[name])) for name in vgg.layers)

    def together(sr):
        return distance(*compared(vgg, params, sr, hr))

    def apart(sr):
        return distance(*(vgg.apply({"params": params}, image) for image in (sr, hr)))

    (ours, at_ours), (theirs, at_theirs) = (
        jax.jit(jax.value_and_grad(f))(sr) for f in (together, apart)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(at_ours, at_theirs, rtol=1e-3, atol=1e-5 * jnp.abs(at_theirs).max())


def test_bfloat16_leaves_results_and_statistics_float32():
    x = jax.random.uniform(jax.random.key(0), (2, 12, 12, 3))
    exact, fast = (Generator(blocks=2, channels=8, dtype=d) for d in ("float32", "bfloat16"))
    variables = init_variables(exact, jax.random.key(1), x.shape).as_flax()
    (expected, stats), (sr, fast_stats) = (
        jax.jit(functools.partial(trained, module, train=True))(variables, x)
        for module in (exact, fast)
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves((sr, fast_stats))} == {"float32"}
    assert 0 < jnp.abs(sr - expected).max() < 0.05 * jnp.abs(expected).max()
    assert_same(jax.tree.leaves(stats), jax.tree.leaves(fast_stats), rtol=0.02, atol=0.02)
    program = jax.jit(lambda v: trained(fast, v, x, train=True)).lower(variables).as_text()
    made = [line for line in program.splitlines() if "stablehlo.convolution(" in line]
    assert len(made) >= 9
    assert all(line.count("xbf16>") >= 2 for line in made)
