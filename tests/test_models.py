"""The networks: sizes, switches, both BatchNorm modes, and the same networks in PyTorch."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax import ranges, resample
from srgan_jax.models import vgg
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator, icnr
from srgan_jax.models.layers import PReLU
from srgan_jax.models.operations import depth_to_space
from srgan_jax.models.vgg import VGG19

pytestmark = pytest.mark.usefixtures("quick_compile")

SMALL = {"blocks": 1, "channels": 8}


def random_variables(module, *inputs, seed: int = 0, **options):
    """Variables without any symmetry: also biases, slopes and statistics are random."""
    variables = jax.eval_shape(
        lambda: module.init(jax.random.key(0), *inputs, **options)  # shapes alone
    )
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            values = rng.normal(0, fan_in**-0.5, leaf.shape)
        elif name in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(0, 0.2, leaf.shape)
        return np.asarray(values, np.float32)

    return jax.tree_util.tree_map_with_path(fill, variables)


@functools.partial(jax.jit, static_argnames=("module", "train"))
def run(module, variables, x, *, train):
    """Output, and what else the module tells."""
    return module.apply(
        variables, x, train=train, mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames="module")
def fresh(module, x):
    """Variables as training starts with them."""
    return module.init(jax.random.key(0), x, train=False)


def random_image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def count(module, *inputs, **options) -> int:
    """How many values the parameters hold; nothing is computed."""
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def conv_count(size: int, inputs: int, outputs: int) -> int:
    return size * size * inputs * outputs + outputs


# Generator


def generator_count(blocks: int, stages: int, slopes: int = 1) -> int:
    """Method.md, Networks: convolutions with biases, BatchNorm's scale and bias, slopes."""
    norm = 2 * 64
    total = conv_count(9, 3, 64) + slopes
    total += blocks * (2 * conv_count(3, 64, 64) + 2 * norm + slopes)
    total += conv_count(3, 64, 64) + norm
    total += stages * (conv_count(3, 64, 256) + slopes)
    return total + conv_count(9, 64, 3)


def test_generator_parameter_count():
    lr_image = np.zeros((1, 24, 24, 3), np.float32)
    assert count(Generator(), lr_image, train=False) == generator_count(16, 2) == 1_549_462
    assert count(Generator(blocks=15), lr_image, train=False) == generator_count(15, 2)
    assert count(Generator(scale=8, prelu="channel"), lr_image, train=False) == generator_count(
        16, 3, slopes=64
    )
    without_norm = generator_count(16, 2) - (2 * 16 + 1) * 2 * 64
    assert count(Generator(norm="none"), lr_image, train=False) == without_norm


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_generator_output_size(scale):
    module = Generator(scale=scale, **SMALL)
    sr, _ = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=False),
        np.zeros((2, 6, 5, 3), np.float32),
    )
    assert sr.shape == (2, 6 * scale, 5 * scale, 3)
    assert sr.dtype == jnp.float32


def test_norm_switch():
    x = random_image(1, 6, 6, 3)
    batch = fresh(Generator(**SMALL), x)
    assert {"block0_bn1", "block0_bn2", "bn_mid"} == set(batch["batch_stats"])
    none = fresh(Generator(norm="none", **SMALL), x)
    assert set(none) == {"params"}
    assert set(batch["params"]) - set(none["params"]) == set(batch["batch_stats"])


def test_prelu():
    x = jnp.array([[-2.0, -1.0], [3.0, -4.0]])
    shared, channel = PReLU(), PReLU(per_channel=True)
    for module, size in ((shared, 1), (channel, 2)):
        variables = module.init(jax.random.key(0), x)
        np.testing.assert_array_equal(variables["params"]["slope"], np.full(size, 0.25))
        np.testing.assert_allclose(module.apply(variables, x), [[-0.5, -0.25], [3, -1]])
    slopes = {"params": {"slope": jnp.array([0.1, 0.5])}}
    np.testing.assert_allclose(channel.apply(slopes, x), [[-0.2, -0.5], [3, -2]])


@pytest.mark.parametrize(("prelu", "size"), [("shared", 1), ("channel", 8)])
def test_prelu_switch(prelu, size):
    variables = fresh(Generator(prelu=prelu, **SMALL), random_image(1, 6, 6, 3))
    slopes = [p["slope"] for name, p in variables["params"].items() if "prelu" in name]
    assert len(slopes) == 4  # after conv_in, in the block, after each of two shuffles
    for slope in slopes:
        np.testing.assert_array_equal(slope, np.full(size, 0.25))


def test_tanh_switch():
    x = random_image(1, 6, 6, 3)
    variables = random_variables(Generator(**SMALL), x, train=False)
    variables["params"]["conv_out"]["kernel"] *= 10.0
    linear, _ = run(Generator(**SMALL), variables, x, train=False)
    squashed, _ = run(Generator(output="tanh", **SMALL), variables, x, train=False)
    assert jnp.abs(linear).max() > 1.5
    np.testing.assert_allclose(squashed, np.tanh(linear), atol=1e-6)


def test_a_bicubic_base_starts_as_bicubic():
    x = random_image(2, 6, 7, 3)
    module = Generator(base="bicubic", **SMALL)
    variables = fresh(module, x)
    expected = ranges.unit_to_signed(resample.bicubic(jnp.asarray(x), 4, quantise=False))
    np.testing.assert_allclose(run(module, variables, x, train=False)[0], expected, atol=1e-6)

    # From there it learns: what the last convolution gives is added.
    variables["params"]["conv_out"]["bias"] += jnp.array([0.1, 0.2, 0.3])
    added = run(module, variables, x, train=False)[0] - expected
    np.testing.assert_allclose(added, np.broadcast_to([0.1, 0.2, 0.3], added.shape), atol=1e-6)
    grads = jax.grad(lambda p: run(module, {**variables, "params": p}, x, train=False)[0].sum())(
        variables["params"]
    )
    assert jnp.abs(grads["conv_out"]["kernel"]).max() > 0


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_direct_is_one_convolution_and_one_pixel_shuffle(scale):
    x = random_image(2, 6, 5, 3)
    module = Generator(scale=scale, upsample="direct", kernel=3, **SMALL)
    variables = random_variables(module, x, train=False)
    assert not [name for name in variables["params"] if name.startswith("up")]
    assert variables["params"]["conv_out"]["kernel"].shape == (3, 3, 8, 3 * scale**2)
    sr, state = run(module, variables, x, train=False)
    of_last = state["intermediates"]["conv_out"]["__call__"][0]
    assert of_last.shape == (2, 6, 5, 3 * scale**2)
    np.testing.assert_array_equal(sr, depth_to_space(of_last, scale))


@pytest.mark.parametrize("upsample", ["shuffle", "direct"])
def test_sr_is_float32_also_where_the_rest_is_not(upsample):
    x = random_image(1, 6, 5, 3)
    module = Generator(upsample=upsample, dtype="bfloat16", **SMALL)
    sr, _ = run(module, random_variables(module, x, train=False), x, train=False)
    assert sr.dtype == jnp.float32
    assert (sr != sr.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9


def in_blocks(image: jax.Array) -> bool:
    """Whether every 2x2 block is of one colour."""
    first = np.repeat(np.repeat(image[:, ::2, ::2], 2, axis=1), 2, axis=2)
    return bool(np.allclose(image, first, atol=1e-6))


@pytest.mark.parametrize("switch", [True, False])
def test_icnr_starts_as_nearest_neighbour_enlargement(switch):
    x = random_image(1, 6, 6, 3)
    module = Generator(icnr=switch, **SMALL)
    variables = fresh(module, x)
    _, state = run(module, variables, x, train=False)
    for stage in ("up0", "up1"):
        activation = state["intermediates"][f"{stage}_prelu"]["__call__"][0]
        if stage == "up1":  # whose pixel shuffle comes after the last convolution
            activation = depth_to_space(activation, 2)
        assert in_blocks(activation) == switch
        assert np.std(activation) > 0.01


def test_icnr_keeps_the_initialisers_scale():
    plain = jax.nn.initializers.lecun_normal()
    kernel = icnr(plain, 2)(jax.random.key(0), (3, 3, 64, 256))
    assert kernel.shape == (3, 3, 64, 256)
    np.testing.assert_allclose(kernel.std(), (9 * 64) ** -0.5, rtol=0.02)


def test_depth_to_space_by_hand():
    x = np.arange(2 * 2 * 3 * 12).reshape(2, 2, 3, 12)
    result = depth_to_space(jnp.asarray(x), 2)
    assert result.shape == (2, 4, 6, 3)
    for b, h, w, i, j, c in np.ndindex(2, 2, 3, 2, 2, 3):
        assert result[b, 2 * h + i, 2 * w + j, c] == x[b, h, w, 6 * i + 3 * j + c]


def test_depth_to_space_is_pytorchs_pixel_shuffle_of_reordered_channels():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    x = random_image(2, 3, 4, 20)
    result = depth_to_space(jnp.asarray(x), 2)
    theirs = shuffle_order(x.transpose(0, 3, 1, 2), axis=1)
    shuffled = torch.nn.functional.pixel_shuffle(torch.from_numpy(theirs), 2).numpy()
    np.testing.assert_array_equal(result, shuffled.transpose(0, 2, 3, 1))


def shuffle_order(x: np.ndarray, axis: int) -> np.ndarray:
    """Channels from our order (row, column, channel) to PyTorch's (channel, row, column)."""
    channels = x.shape[axis] // 4
    order = [4 * [0] for _ in range(channels)]
    for i, j, c in np.ndindex(2, 2, channels):
        order[c][2 * i + j] = (2 * i + j) * channels + c
    return np.take(x, np.concatenate(order), axis=axis)


def test_a_gradient_passes_far_outside_the_range():
    x = random_image(1, 6, 6, 3)
    module = Generator(**SMALL)
    variables = random_variables(module, x, train=False)

    def total(bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        variables["params"]["conv_out"]["bias"] = bias
        sr, _ = run(module, variables, x, train=False)
        return jnp.sum(sr), sr

    grad, sr = jax.grad(total, has_aux=True)(jnp.array([-50.0, 0.0, 50.0]))
    assert sr[..., 0].max() < -40
    assert sr[..., 2].min() > 40
    np.testing.assert_allclose(grad, 24 * 24)  # each pixel counts in full


@pytest.mark.parametrize(
    ("module", "size"),
    [(Generator(**SMALL), 6), (Discriminator(channels=4, dense=8), 16)],
    ids=["generator", "discriminator"],
)
def test_only_in_training_the_batch_matters(module, size):
    pictures = random_image(3, size, size, 3)
    variables = random_variables(module, pictures, train=False)
    alone, _ = run(module, variables, pictures[:1], train=False)
    together, _ = run(module, variables, pictures, train=False)
    np.testing.assert_allclose(alone, together[:1], atol=1e-6)

    alone, _ = run(module, variables, pictures[:2], train=True)
    together, _ = run(module, variables, pictures, train=True)
    assert np.abs(alone[0] - together[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("module", "size", "convolution", "norm"),
    [
        (Generator(**SMALL), 6, "block0_conv1", "block0_bn1"),
        (Discriminator(channels=4, dense=8), 16, "conv1", "bn1"),
    ],
    ids=["generator", "discriminator"],
)
def test_running_statistics_move_a_tenth_of_the_way(module, size, convolution, norm):
    x = random_image(3, size, size, 3)
    variables = random_variables(module, x, train=False)
    _, state = run(module, variables, x, train=True)
    normed = np.asarray(state["intermediates"][convolution]["__call__"][0], np.float64)
    old, new = variables["batch_stats"][norm], state["batch_stats"][norm]
    mean, variance = normed.mean((0, 1, 2)), normed.var((0, 1, 2))
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * variance, atol=1e-5)
    # Every layer's moved.
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]),
        jax.tree.leaves(state["batch_stats"]),
        strict=True,
    ):
        assert np.abs(before - after).max() > 1e-4


# Discriminator


def test_discriminator_parameter_count():
    """Method.md, Networks: at 96-pixel crops the flattened map is 6x6x512."""
    channels = [3, 64, 64, 128, 128, 256, 256, 512, 512]
    total = sum(conv_count(3, a, b) for a, b in itertools.pairwise(channels))
    total += sum(2 * c for c in channels[2:])  # no BatchNorm after the first
    head = 1024 + 1 + 1024  # biases, and the second layer's kernel
    crop = np.zeros((1, 96, 96, 3), np.float32)
    assert count(Discriminator(), crop, train=False) == total + 6 * 6 * 512 * 1024 + head
    pooled = Discriminator(head="pool")
    assert count(pooled, crop, train=False) == total + 512 * 1024 + head
    crop = np.zeros((1, 256, 256, 3), np.float32)  # the report's
    assert count(Discriminator(), crop, train=False) == total + 16 * 16 * 512 * 1024 + head


def test_discriminator_gives_one_unbounded_logit_each():
    module = Discriminator(channels=4, dense=8)
    x = random_image(3, 32, 32, 3)
    variables = random_variables(module, x, train=False)
    variables["params"]["dense1"]["kernel"] *= 1000
    logits, _ = run(module, variables, x, train=False)
    assert logits.shape == (3,)
    assert jnp.abs(logits).max() > 1


def test_a_pooling_head_takes_any_size():
    module = Discriminator(channels=4, dense=8, head="pool")
    variables = random_variables(module, random_image(1, 32, 32, 3), train=False)
    assert run(module, variables, random_image(2, 48, 64, 3), train=False)[0].shape == (2,)


# The same networks in PyTorch


@pytest.fixture
def torch_layers():
    """Functions of (NCHW tensor, our parameters of one layer); skips without PyTorch."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    functional = torch.nn.functional

    class Layers:
        def __init__(self):
            self.functional = functional

        def images(self, x):
            return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

        def conv(self, x, p, stride=1, shuffled=False):
            kernel, bias = np.array(p["kernel"]).transpose(3, 2, 0, 1), np.array(p["bias"])
            if shuffled:
                kernel, bias = shuffle_order(kernel, 0), shuffle_order(bias, 0)
            kernel, bias = torch.from_numpy(kernel.copy()), torch.from_numpy(bias)
            return functional.conv2d(x, kernel, bias, stride, padding=kernel.shape[-1] // 2)

        def norm(self, x, p, stats, train):
            arrays = (stats["mean"], stats["var"], p["scale"], p["bias"])
            return functional.batch_norm(x, *(torch.from_numpy(a.copy()) for a in arrays), train)

        def prelu(self, x, p):
            return functional.prelu(x, torch.from_numpy(p["slope"].copy()))

        def dense(self, x, p):
            kernel = torch.from_numpy(np.ascontiguousarray(p["kernel"].T))
            return functional.linear(x, kernel, torch.from_numpy(p["bias"].copy()))

    with torch.no_grad():
        yield Layers()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("scale", "options"), [(4, {}), (2, {"norm": "none", "output": "tanh", "prelu": "channel"})]
)
def test_generator_is_the_one_in_pytorch(torch_layers, scale, options, train):
    module = Generator(scale=scale, blocks=2, channels=16, **options)
    lr_image = random_image(2, 9, 7, 3)
    variables = random_variables(module, lr_image, train=False)
    ours, _ = run(module, variables, lr_image, train=train)

    p, stats = variables["params"], variables.get("batch_stats", {})
    layers = torch_layers

    def norm(x, name):
        return layers.norm(x, p[name], stats[name], train) if stats else x

    x = layers.prelu(layers.conv(layers.images(lr_image), p["conv_in"]), p["prelu_in"])
    skip = x
    for i in range(2):
        y = norm(layers.conv(x, p[f"block{i}_conv1"]), f"block{i}_bn1")
        y = layers.prelu(y, p[f"block{i}_prelu"])
        x = x + norm(layers.conv(y, p[f"block{i}_conv2"]), f"block{i}_bn2")
    x = skip + norm(layers.conv(x, p["conv_mid"]), "bn_mid")
    for i in range({2: 1, 4: 2}[scale]):
        x = layers.conv(x, p[f"up{i}_conv"], shuffled=True)
        x = layers.prelu(layers.functional.pixel_shuffle(x, 2), p[f"up{i}_prelu"])
    x = layers.conv(x, p["conv_out"])
    theirs = x.tanh() if options else x
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("head", "slope"), [("flatten", 0.2), ("pool", 0.01)])
def test_discriminator_is_the_one_in_pytorch(torch_layers, head, slope, train):
    module = Discriminator(channels=8, dense=16, head=head, slope=slope)
    image = random_image(2, 32, 48, 3) * 2 - 1
    variables = random_variables(module, image, train=False)
    ours, _ = run(module, variables, image, train=train)

    p, stats, layers = variables["params"], variables["batch_stats"], torch_layers
    x = layers.images(image)
    for i, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 2]):
        x = layers.conv(x, p[f"conv{i}"], stride)
        x = layers.norm(x, p[f"bn{i}"], stats[f"bn{i}"], train) if i else x
        x = layers.functional.leaky_relu(x, slope)
    assert x.shape == (2, 64, 2, 3)
    x = x.mean((2, 3)) if head == "pool" else x.permute(0, 2, 3, 1).flatten(1)
    x = layers.functional.leaky_relu(layers.dense(x, p["dense0"]), slope)
    theirs = layers.dense(x, p["dense1"])[:, 0]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


# VGG19


def test_vgg_layer_names_and_shapes():
    module = VGG19(layers=vgg.LAYERS)
    shapes, _ = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x), np.zeros((2, 64, 96, 3))
    )
    expected = {}
    for stage, convolutions, channels in [
        (1, 2, 64), (2, 2, 128), (3, 4, 256), (4, 4, 512), (5, 4, 512)
    ]:  # fmt: skip
        size = (2, 128 // 2**stage, 192 // 2**stage, channels)
        for i in range(1, convolutions + 1):
            expected[f"conv{stage}_{i}"] = expected[f"relu{stage}_{i}"] = size
        expected[f"pool{stage}"] = (2, 64 // 2**stage, 96 // 2**stage, channels)
    assert {name: x.shape for name, x in shapes.items()} == expected
    assert len(vgg.CONVOLUTIONS) == 16
    assert set(vgg.LAYERS) == set(expected)


def test_vgg_needs_no_parameters_beyond_its_deepest_layer():
    def parameters(*layers: str) -> set[str]:
        module = VGG19(layers=layers)
        x = np.zeros((1, 32, 32, 3))
        return set(jax.eval_shape(lambda: module.init(jax.random.key(0), x))["params"])

    two = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
    assert parameters("relu2_2") == set(two) == set(vgg.convolutions_needed(("relu2_2",)))
    assert parameters("relu2_2", "conv1_1") == set(two)
    assert parameters("pool1") == {"conv1_1", "conv1_2"}
    assert parameters("relu5_4") == set(vgg.CONVOLUTIONS)


def test_vgg_normalisations_are_equivalent():
    """Weights for one form of input, rewritten for the other, give the same features."""
    x = random_image(1, 12, 12, 3) * 2 - 1
    caffe, pytorch = (VGG19(("conv1_1",), form) for form in (vgg.CAFFE, vgg.TORCH))
    params = random_variables(caffe, x)["params"]["conv1_1"]

    means_caffe = np.array([123.68, 116.779, 103.939])  # R, G, B
    means_torch = 255 * np.array([0.485, 0.456, 0.406])
    deviations = 255 * np.array([0.229, 0.224, 0.225])
    kernel = params["kernel"].astype(np.float64)
    # pixel - means_caffe = deviations * normalised + (means_torch - means_caffe)
    bias = params["bias"] + np.einsum("ijco,c->o", kernel, means_torch - means_caffe)
    rewritten = {"kernel": kernel * deviations[:, None], "bias": bias}
    rewritten = jax.tree.map(lambda a: a.astype(np.float32), rewritten)

    ours = caffe.apply({"params": {"conv1_1": params}}, x)["conv1_1"]
    theirs = pytorch.apply({"params": {"conv1_1": rewritten}}, x)["conv1_1"]
    inner = np.s_[:, 1:-1, 1:-1]  # zero padding means another colour in each form
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-5 * np.abs(ours).max())
