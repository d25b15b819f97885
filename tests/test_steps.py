"""One update at a time, against the same update written down naively."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srgan_jax import rng, steps
from srgan_jax.data.degradation import Degradation, training_pairs
from srgan_jax.losses import AdversarialLoss, ContentLoss
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator
from srgan_jax.models.vgg import TORCH, VGG19
from srgan_jax.state import (
    best_variables,
    init_variables,
    start_gan,
    start_pretraining,
    update_ema,
)

pytestmark = pytest.mark.usefixtures("quick_compile")

CROP, BATCH = 16, 4
GENERATOR = Generator(blocks=1, channels=8)
DISCRIMINATOR = Discriminator(channels=4, dense=8)
VGG = VGG19(layers=("relu1_2",), normalisation=TORCH)
# With so large an epsilon an update still tells small gradients from large ones.
ADAM = optax.adam(1e-2, eps=1e-2)

PIXEL = ContentLoss(pixel=1.0)
PERCEPTUAL = ContentLoss(pixel=0.0, vgg=1.0, layers=(("relu1_2", 1.0),))


def pretrain_recipe(**settings) -> steps.Recipe:
    usual = {"generator": GENERATOR, "generator_tx": ADAM, "content": PIXEL, "ema_decay": 0.9}
    settings = usual | {"degradation": Degradation()} | settings
    return steps.Recipe(**settings, vgg=VGG if settings["content"].vgg else None)


def gan_recipe(adversarial: AdversarialLoss | None = None, **settings) -> steps.GanRecipe:
    names = {field.name for field in dataclasses.fields(steps.Recipe)}
    ours = {name: settings.pop(name) for name in list(settings) if name in names}
    return steps.GanRecipe(
        **vars(pretrain_recipe(**ours)),
        discriminator=DISCRIMINATOR,
        discriminator_tx=ADAM,
        adversarial=adversarial or AdversarialLoss(),
        **settings,
    )


# Compiled once for each recipe, whatever the test.
pretrain_step = functools.partial(jax.jit, static_argnums=0)(steps.pretrain_step)
gan_step = functools.partial(jax.jit, static_argnums=0)(steps.gan_step)


@functools.cache
def variables_of(module, size: int):
    """Fresh, but with random statistics, so that nothing hides behind zeros and ones."""
    fresh = init_variables(module, rng.stream(0, "test"), (1, size, size, 3))
    random = np.random.default_rng(0)
    return fresh.replace(
        batch_stats=jax.tree.map(
            lambda x: jnp.asarray(random.uniform(0.5, 1.5, x.shape), x.dtype), fresh.batch_stats
        )
    )


@functools.cache
def vgg_params():
    with jax.ensure_compile_time_eval():  # also where the first to ask is being traced
        return jax.jit(VGG.init)(jax.random.key(1), jnp.zeros((1, CROP, CROP, 3)))["params"]


def vgg_of(recipe):
    """What a step is given: nothing where its loss needs none, as in training."""
    return {} if recipe.vgg is None else vgg_params()


def start(recipe, *, ema: bool = True):
    state = start_pretraining(
        variables_of(recipe.generator, CROP // 4), recipe.generator_tx, ema=ema
    )
    if not isinstance(recipe, steps.GanRecipe):
        return state
    judge = variables_of(recipe.discriminator, CROP)
    return start_gan(state, recipe.generator_tx, judge, recipe.discriminator_tx)


def batch(seed: int = 0, count: int = BATCH) -> steps.Batch:
    random = np.random.default_rng(seed)
    return steps.Batch(
        random.integers(0, 256, (count, CROP, CROP, 3), np.uint8),
        random.integers(0, 8, count, np.int32),
        random.integers(0, 2**32, count, np.uint32),
    )


@functools.partial(jax.jit, static_argnums=0)
def run(module, params, batch_stats, x):
    """A pass in training mode, by Flax alone."""
    variables = {"params": params, "batch_stats": batch_stats}
    output, updates = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return output, updates.get("batch_stats", {})


def naive_content(content: ContentLoss, sr, hr):
    """The content loss, term by term, from the paper's equations."""
    total = content.pixel * jnp.mean((sr - hr) ** 2)
    if content.vgg:
        ours, theirs = (VGG.apply({"params": vgg_params()}, x)["relu1_2"] for x in (sr, hr))
        distances = ((ours - theirs) / 12.75) ** 2
        total += content.vgg * jnp.sum(distances) / (distances.size / distances.shape[-1])
    if content.tv:
        down, across = sr[:, 1:] - sr[:, :-1], sr[:, :, 1:] - sr[:, :, :-1]
        total += content.tv * (jnp.abs(down).sum() + jnp.abs(across).sum()) / len(sr)
    return total


def descend(tx, network, grads, batch_stats):
    updates, opt_state = tx.update(grads, network.opt_state)
    params = optax.apply_updates(network.variables.params, updates)
    return type(network)(type(network.variables)(params, batch_stats), opt_state)


def naive_pretrain_step(recipe, generator, examples):
    """G down the gradient of the content loss; also that gradient."""
    lr_image, hr = training_pairs(recipe.degradation, examples)
    grads, batch_stats = naive_gradient(recipe.generator, recipe.content, generator, lr_image, hr)
    return descend(recipe.generator_tx, generator, grads, batch_stats), grads


def naive_gan_step(recipe, generator, discriminator, examples):
    """D k times, each on crops of its own; then G through the new D, nothing shared."""
    k = recipe.discriminator_updates
    lr_images, hrs = training_pairs(recipe.degradation, examples)
    size = len(hrs) // k
    for i in range(k):
        lr_image, hr = (x[i * size : (i + 1) * size] for x in (lr_images, hrs))
        sr, _ = run(recipe.generator, *vars(generator.variables).values(), lr_image)
        d_grads, batch_stats = naive_d_gradient(discriminator.variables, hr, sr)
        discriminator = descend(recipe.discriminator_tx, discriminator, d_grads, batch_stats)
    g_grads, batch_stats = naive_gradient(
        recipe.generator, recipe.content, generator, lr_image, hr,
        recipe.adversarial.weight, discriminator.variables,
    )  # fmt: skip
    generator = descend(recipe.generator_tx, generator, g_grads, batch_stats)
    return generator, discriminator, g_grads, d_grads


@jax.jit
def naive_d_gradient(variables, hr, sr):
    def loss(params):
        real, batch_stats = run(DISCRIMINATOR, params, variables.batch_stats, hr)
        fake, batch_stats = run(DISCRIMINATOR, params, batch_stats, sr)
        value = jnp.mean(jnp.log(jax.nn.sigmoid(real)))
        value += jnp.mean(jnp.log(1 - jax.nn.sigmoid(fake)))
        return -value, batch_stats

    return jax.grad(loss, has_aux=True)(variables.params)


@functools.partial(jax.jit, static_argnames=("module", "content"))
def naive_gradient(module, content, generator, lr_image, hr, weight=0.0, judge=None):
    def loss(params):
        sr, batch_stats = run(module, params, generator.variables.batch_stats, lr_image)
        value = naive_content(content, sr, hr)
        if judge is not None:
            fake, _ = run(DISCRIMINATOR, judge.params, judge.batch_stats, sr)
            value += weight * jnp.mean(-jnp.log(jax.nn.sigmoid(fake)))
        return value, batch_stats

    return jax.grad(loss, has_aux=True)(generator.variables.params)


def assert_close(ours, theirs, **tolerance):
    tolerance = {"rtol": 1e-4, "atol": 1e-5} | tolerance
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), ours, theirs)


def moved(old, new) -> dict:
    """How far each leaf went."""
    return jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), old, new)


@pytest.mark.parametrize("content", [PIXEL, PERCEPTUAL], ids=["mse", "vgg"])
def test_pretrain_step_is_the_naive_one(content):
    recipe = pretrain_recipe(content=content)
    state = start(recipe)
    for i in range(2):  # the second update has the first one's optimizer state
        generator, grads = naive_pretrain_step(recipe, state.generator, batch(i))
        state, metrics = pretrain_step(recipe, state, vgg_of(recipe), batch(i))
        norm = optax.tree.norm(grads)
        np.testing.assert_allclose(metrics["grad_norm/generator"], norm, rtol=1e-4)
        assert_close(state.generator, generator)
    assert state.step == 2
    assert state.discriminator is None


@pytest.mark.parametrize(("content", "k"), [(PIXEL, 1), (PERCEPTUAL, 2)], ids=["mse-1", "vgg-2"])
def test_gan_step_is_the_naive_one(content, k):
    recipe = gan_recipe(content=content, discriminator_updates=k)
    assert recipe.batches_per_step == k
    state = start(recipe)
    for i in range(2):
        examples = batch(i, k * BATCH)
        generator, discriminator, g_grads, d_grads = naive_gan_step(
            recipe, state.generator, state.discriminator, examples
        )
        state, metrics = gan_step(recipe, state, vgg_of(recipe), examples)
        for name, grads in {"generator": g_grads, "discriminator": d_grads}.items():
            norm = optax.tree.norm(grads)
            np.testing.assert_allclose(metrics[f"grad_norm/{name}"], norm, rtol=1e-4)
        assert_close(state.generator, generator)
        assert_close(state.discriminator, discriminator)
    assert state.step == 2


# Every term alone, with plain gradient descent: the update is the gradient.
TERMS = {
    "pixel": (ContentLoss(pixel=1.0), 0.0),
    "vgg": (PERCEPTUAL, 0.0),
    "tv": (ContentLoss(pixel=0.0, tv=1e-3), 0.0),
    "adversarial": (ContentLoss(pixel=0.0), 1.0),
}


@pytest.mark.parametrize("term", TERMS)
def test_no_terms_gradient_is_cut_off(term):
    content, weight = TERMS[term]
    recipe = gan_recipe(
        generator=Generator(blocks=1, channels=8, norm="none", prelu="channel"),
        generator_tx=optax.sgd(1.0),
        content=content,
        adversarial=AdversarialLoss(weight=weight),
    )
    state = start(recipe)
    new, _ = gan_step(recipe, state, vgg_of(recipe), batch())
    if weight:
        *_, grads, _ = naive_gan_step(recipe, state.generator, state.discriminator, batch())
    else:
        _, grads = naive_pretrain_step(recipe, state.generator, batch())
    before, after = state.generator.variables.params, new.generator.variables.params
    kernels = [layer["kernel"] for layer in moved(before, after).values() if "kernel" in layer]
    assert min(kernels) > 1e-6  # every layer is told
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    update = jax.tree.map(jnp.subtract, before, after)
    # What is subtracted from parameters of size 1 is known to 1e-7.
    assert_close(update, grads, rtol=1e-3, atol=1e-3 * scale + 2e-7)


def test_no_weight_no_gradient():
    recipe = gan_recipe(content=ContentLoss(pixel=0.0), adversarial=AdversarialLoss(weight=0.0))
    state = start(recipe)
    new, metrics = gan_step(recipe, state, {}, batch())
    assert_close(new.generator.variables.params, state.generator.variables.params, rtol=0, atol=0)
    assert metrics["grad_norm/generator"] == metrics["grad_sr/content"] == 0
    assert metrics["grad_norm/discriminator"] > 0
    assert all(jnp.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("phase", ["pretrain", "gan"])
def test_the_moving_average_is_of_parameters_and_statistics(phase):
    recipe, step = {
        "pretrain": (pretrain_recipe(), pretrain_step),
        "gan": (gan_recipe(), gan_step),
    }[phase]
    state = start(recipe)
    assert_close(state.ema, state.generator.variables, rtol=0, atol=0)
    expected = state.ema
    for i in range(2):
        state, _ = step(recipe, state, {}, batch(i))
        expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, expected, state.generator.variables)
    assert_close(state.ema, expected, rtol=1e-6)
    for kind in ("params", "batch_stats"):
        distance = moved(getattr(state.ema, kind), getattr(state.generator.variables, kind))
        assert max(jax.tree.leaves(distance)) > 1e-3
    assert best_variables(state) is state.ema


def test_without_a_moving_average_there_is_none():
    state = start(pretrain_recipe(), ema=False)
    state, _ = pretrain_step(pretrain_recipe(), state, {}, batch())
    assert state.ema is None
    assert best_variables(state) is state.generator.variables


def test_update_ema_by_hand():
    old, new = {"a": jnp.array([0.0, 10.0])}, {"a": jnp.array([1.0, 0.0])}
    np.testing.assert_allclose(update_ema(old, new, 0.75)["a"], [0.25, 7.5])


def test_the_gan_starts_from_the_average_where_there_is_one():
    recipe = gan_recipe()
    pretraining = pretrain_recipe()
    pretrained, _ = pretrain_step(pretraining, start(pretraining), {}, batch())
    judge = variables_of(DISCRIMINATOR, CROP)
    state = start_gan(pretrained, ADAM, judge, ADAM)
    assert state.step == 1
    assert_close(state.generator.variables, pretrained.ema, rtol=0, atol=0)
    assert_close(state.ema, pretrained.ema, rtol=0, atol=0)
    assert_close(state.generator.opt_state, ADAM.init(pretrained.ema.params), rtol=0, atol=0)
    assert_close(state.discriminator.variables, judge, rtol=0, atol=0)
    state, _ = gan_step(recipe, state, {}, batch())
    assert state.step == 2

    plain = start_gan(pretrained.replace(ema=None), ADAM, judge, ADAM)
    assert plain.ema is None
    assert_close(plain.generator.variables, pretrained.generator.variables, rtol=0, atol=0)


@pytest.mark.parametrize("ema", [False, True])
def test_a_state_holds_arrays_alone(ema):
    for recipe in (pretrain_recipe(), gan_recipe()):
        leaves = jax.tree.leaves(start(recipe, ema=ema))
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
        # Each has a buffer of its own: the state is donated.
        assert len({leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size}) == len(leaves)


def test_what_a_step_gives_has_the_form_of_what_it_took():
    for recipe, step in (
        (pretrain_recipe(), pretrain_step),
        (gan_recipe(), gan_step),
    ):
        state = start(recipe)
        new, _ = step(recipe, state, {}, batch())
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_pretraining_metrics():
    content = ContentLoss(pixel=0.5, vgg=2.0, tv=1e-3, layers=(("relu1_2", 1.0),))
    recipe = pretrain_recipe(content=content)
    _, metrics = pretrain_step(recipe, start(recipe), vgg_params(), batch())
    assert set(metrics) == {
        "loss", "loss/mse", "loss/vgg", "loss/tv",
        "grad_sr/mse", "grad_sr/vgg", "grad_sr/tv", "grad_norm/generator",
    }  # fmt: skip
    weighted = 0.5 * metrics["loss/mse"] + 2 * metrics["loss/vgg"] + 1e-3 * metrics["loss/tv"]
    np.testing.assert_allclose(metrics["loss"], weighted, rtol=1e-5)
    _, metrics = pretrain_step(pretrain_recipe(), start(pretrain_recipe()), {}, batch())
    assert set(metrics) == {"loss", "loss/mse", "grad_sr/mse", "grad_norm/generator"}
    assert metrics["loss"] == metrics["loss/mse"]


def test_each_terms_gradient_norm():
    content = ContentLoss(pixel=0.5, vgg=2.0, tv=1e-3, layers=(("relu1_2", 1.0),))
    recipe = pretrain_recipe(content=content)
    state = start(recipe)
    _, metrics = pretrain_step(recipe, state, vgg_params(), batch())
    lr_image, hr = training_pairs(recipe.degradation, batch())
    sr, _ = run(recipe.generator, *vars(state.generator.variables).values(), lr_image)
    alone = {
        "mse": ContentLoss(pixel=0.5),
        "vgg": dataclasses.replace(content, pixel=0.0, tv=0.0),
        "tv": ContentLoss(pixel=0.0, tv=1e-3),
    }
    for name, term in alone.items():
        gradient = jax.grad(lambda sr, term=term: naive_content(term, sr, hr))(sr)
        np.testing.assert_allclose(
            metrics[f"grad_sr/{name}"], jnp.linalg.norm(gradient.ravel()), rtol=1e-4
        )


def test_health_figures_of_the_gan():
    recipe = gan_recipe()
    state = start(recipe)
    new, metrics = gan_step(recipe, state, {}, batch())
    assert set(metrics) == {
        "loss", "loss/mse", "loss/adversarial", "loss/discriminator", "d/real", "d/fake",
        "grad_sr/mse", "grad_sr/content", "grad_sr/adversarial", "grad_sr/ratio",
        "grad_norm/generator", "grad_norm/discriminator",
    }  # fmt: skip
    assert all(value.shape == () for value in metrics.values())

    lr_image, hr = training_pairs(recipe.degradation, batch())
    sr, _ = run(GENERATOR, *vars(state.generator.variables).values(), lr_image)
    old, updated = (vars(s.discriminator.variables).values() for s in (state, new))
    real, fake = (jax.nn.sigmoid(run(DISCRIMINATOR, *old, x)[0]) for x in (hr, sr))
    judged = jax.nn.sigmoid(run(DISCRIMINATOR, *updated, sr)[0])

    def adversarial(sr):
        logits, _ = run(DISCRIMINATOR, *vars(new.discriminator.variables).values(), sr)
        return -jnp.mean(jnp.log(jax.nn.sigmoid(logits)))

    expected = {
        "d/real": real.mean(),
        "d/fake": fake.mean(),
        "loss/discriminator": -jnp.mean(jnp.log(real)) - jnp.mean(jnp.log(1 - fake)),
        "loss/adversarial": -jnp.mean(jnp.log(judged)),
        "loss/mse": jnp.mean((sr - hr) ** 2),
        "grad_sr/mse": jnp.linalg.norm(2 * (sr - hr).ravel() / sr.size),
        "grad_sr/content": jnp.linalg.norm(2 * (sr - hr).ravel() / sr.size),
        "grad_sr/adversarial": 1e-3 * jnp.linalg.norm(jax.grad(adversarial)(sr).ravel()),
    }
    expected["loss"] = expected["loss/mse"] + 1e-3 * expected["loss/adversarial"]
    expected["grad_sr/ratio"] = expected["grad_sr/content"] / expected["grad_sr/adversarial"]
    assert_close({name: metrics[name] for name in expected}, expected, atol=1e-7)
    assert not np.isclose(metrics["d/real"], metrics["d/fake"], rtol=1e-3)
