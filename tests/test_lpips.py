"""LPIPS against NumPy and the authors' package, and its weights in and out of files.

Trained trunks cannot be had where these tests run: the trunks are random. The heads compared
with the package are its own.
"""

import functools
import os
import pathlib
import re
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
import safetensors.numpy
import skimage.data

from srgan_jax.convert import lpips as convert
from srgan_jax.errors import UserError
from srgan_jax.metrics import lpips

NETS = tuple(lpips.TRUNKS)

# Compiled once for all tests.
distance = jax.jit(lpips.lpips, static_argnames="net")


@functools.cache
def random_params(net: str) -> dict[str, np.ndarray]:
    """Values that keep their size from layer to layer; biases that matter; heads like the real."""
    rng = np.random.default_rng(0)
    params = {}
    for name, shape in lpips.shapes(net).items():
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            params[name] = values * np.float32(np.sqrt(2 / np.prod(shape[:3])))
        else:
            params[name] = np.abs(values) if name.startswith("lin") else values / 8
    return params


@functools.cache
def photographs(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and the same with noise, uint8 [H, W, 3]."""
    image = skimage.data.astronaut()[90 : 90 + height, 200 : 200 + width]
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    return image, np.clip(image + noise, 0, 255).astype(np.uint8)


# The metric.


def squeeze_in_numpy(p: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray) -> float:
    """LPIPS by SqueezeNet 1.1 in float64, [C, H, W], written from the papers alone."""

    def windows(x, size, stride):
        view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return view[:, ::stride, ::stride]

    def conv(x, name, stride=1, padding=0):
        kernel = p[f"{name}.kernel"].astype(np.float64)
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        x = np.einsum("ihwyx,yxio->ohw", windows(x, kernel.shape[0], stride), kernel, optimize=True)
        return np.maximum(x + p[f"{name}.bias"][:, None, None], 0)

    def fire(x, place):
        name = f"features.{place}"
        x = conv(x, f"{name}.squeeze")
        return np.concatenate(
            [conv(x, f"{name}.expand1x1"), conv(x, f"{name}.expand3x3", padding=1)]
        )

    def pool(x):
        rows, columns = (range(0, size - 1, 2) for size in x.shape[1:])
        corners = [[x[:, i : i + 3, j : j + 3].max(axis=(1, 2)) for j in columns] for i in rows]
        return np.array(corners).transpose(2, 0, 1)

    def stages(image):
        x = image.transpose(2, 0, 1) / 127.5 - 1
        x = x - np.array([-0.030, -0.088, -0.188])[:, None, None]
        x = x / np.array([0.458, 0.448, 0.450])[:, None, None]
        yield (x := conv(x, "features.0", stride=2))
        yield (x := fire(fire(pool(x), 3), 4))
        yield (x := fire(fire(pool(x), 6), 7))
        yield (x := fire(pool(x), 9))
        for place in (10, 11, 12):
            yield (x := fire(x, place))

    total = 0.0
    for i, (x, y) in enumerate(zip(stages(a), stages(b), strict=True)):
        x, y = (z / (np.linalg.norm(z, axis=0) + 1e-10) for z in (x, y))
        total += np.einsum("chw,c->hw", (x - y) ** 2, p[f"lin{i}"]).mean()
    return total


# Before the three poolings 17 pixels are 8, 4, 2, and 47 are 23, 11, 5: even and odd at each.
@pytest.mark.parametrize("size", [(17, 47), (45, 24)])
def test_squeeze_by_hand(size):
    params = random_params("squeeze")
    a, b = photographs(*size)
    expected = squeeze_in_numpy(params, a, b)
    assert expected > 0.1
    np.testing.assert_allclose(distance("squeeze", params, a, b), expected, rtol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_what_a_distance_is(net):
    params = random_params(net)
    a, b = photographs(40, 53)
    measured = distance(net, params, a, b)
    assert measured.shape == ()
    assert measured.dtype == np.float32
    assert measured > 0.1
    assert distance(net, params, a, a) == 0  # exactly
    assert distance(net, params, b, b) == 0
    np.testing.assert_allclose(distance(net, params, b, a), measured, rtol=1e-6)
    assert distance(net, params, a, (a * 0.9 + b * 0.1)) < measured / 2  # floats, too


def test_in_batches():
    params = random_params("alex")
    a, b = photographs(40, 53)
    pairs = np.stack([a, b, a]), np.stack([b, b, 255 - a])
    batched = jax.vmap(functools.partial(distance, "alex", params))(*pairs)
    each = [distance("alex", params, *pair) for pair in zip(*pairs, strict=True)]
    np.testing.assert_allclose(batched, each, rtol=1e-5, atol=1e-6)


def test_normalised_differences():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 1, 3, 4, 8)).astype(np.float32)
    x[0, 0, 0], y[0, 0, 1], x[0, 1, 0], y[0, 1, 0] = 0, 0, 0, 0  # positions without a direction
    x[0, 2], y[0, 2, :2], y[0, 2, 2:] = 1e-6 * x[0, 2], x[0, 2, :2], 1e6 * x[0, 2, 2:]
    u, v = (
        z / (np.linalg.norm(z.astype(np.float64), axis=-1, keepdims=True) + 1e-10) for z in (x, y)
    )
    np.testing.assert_allclose(lpips._difference(x, y), u - v, atol=2e-7)


@pytest.mark.parametrize("net", NETS)
def test_images_that_cannot_be_compared(net):
    least = lpips.SMALLEST[net]
    params = {name: np.zeros(shape) for name, shape in lpips.shapes(net).items()}

    def trace(a, b):
        jax.eval_shape(functools.partial(lpips.lpips, net), params, np.zeros(a), np.zeros(b))

    trace((least, least + 9, 3), (least, least + 9, 3))
    with pytest.raises(ValueError, match=f"{net} needs at least {least}x{least}"):
        trace((least + 9, least - 1, 3), (least + 9, least - 1, 3))
    with pytest.raises(ValueError, match="one shape"):
        trace((64, 64, 3), (64, 65, 3))


# Against the package.

OPERATORS: list = []  # kept, for they go with the object


@pytest.fixture(scope="module")
def package():
    """The package `lpips`."""
    torch = pytest.importorskip("torch", reason="compares with the package lpips, on PyTorch")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pytest.skip("compares with the package lpips, which needs torchvision")
    except RuntimeError:
        # A torchvision built for GPUs beside PyTorch for CPUs: its operators do not load, and
        # the import fails at two whose names it takes for granted. No network here needs them.
        for name in ("nms", "qnms"):
            OPERATORS.append(torch.library.Library("torchvision", "FRAGMENT"))
            OPERATORS[-1].define(f"{name}(Tensor dets, Tensor scores, float limit) -> Tensor")
    return pytest.importorskip("lpips", reason="compares with the package lpips")


@pytest.fixture(scope="module", params=NETS)
def pair(request, package, tmp_path_factory):
    """(net, the package's function of a, b; ours, with the same weights converted)."""
    import torch

    net = request.param
    with warnings.catch_warnings(action="ignore"):  # of torchvision, how the package calls it
        theirs = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    generator = torch.Generator().manual_seed(0)
    trunk = {"classifier.1.weight": torch.zeros(7, 7)}
    for key, value in theirs.net.state_dict().items():
        fan_in = value[0].numel() if value.ndim == 4 else 128
        value.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        trunk[re.sub(r"^slice\d\.", "features.", key)] = value
    folder = tmp_path_factory.mktemp(net)
    torch.save(trunk, folder / "trunk.pth")
    heads = pathlib.Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    out = folder / "lpips.safetensors"
    assert convert.convert(str(folder / "trunk.pth"), str(heads), str(out)) == net
    named, params = convert.load(out)
    assert named == net

    def reference(a, b):
        images = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for x in (a, b))
        with torch.no_grad():
            return theirs(*images).item()

    return net, reference, functools.partial(distance, net, params)


def test_is_the_packages(pair):
    net, reference, ours = pair
    a, b = photographs(40, 53)
    for other in (b, 255 - a):
        np.testing.assert_allclose(ours(a, other), reference(a, other), rtol=2e-5)
    small = a[: lpips.SMALLEST[net]]
    assert np.isfinite(reference(small, small))
    with pytest.raises(RuntimeError, match=r"too small|greater than"):
        reference(small[1:], small[1:])


# Files.


def squeeze_file(path: pathlib.Path, metadata=None, **changed) -> pathlib.Path:
    """A file as the command writes it, with some arrays changed, or left out where None."""
    arrays = random_params("squeeze") | {name.replace("_", "."): x for name, x in changed.items()}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    metadata = {"lpips_net": "squeeze"} if metadata is None else metadata
    path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))
    return path


def test_a_file_comes_back(tmp_path):
    net, params = convert.load(squeeze_file(tmp_path / "lpips.safetensors"))
    assert net == "squeeze"
    expected = random_params("squeeze")
    assert set(params) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(params[name], array)


@pytest.mark.parametrize(
    ("metadata", "changed", "reason"),
    [
        ({}, {}, "not weights of LPIPS"),
        ({"lpips_net": "resnet"}, {}, "not weights of LPIPS"),
        ({"lpips_net": "alex"}, {}, "features.0.kernel is float32 (3, 3, 3, 64), not"),
        (None, {"features_0_bias": None}, "features.0.bias is missing"),
        (None, {"lin3": None}, "lin3 is missing"),
        (None, {"lin0": np.zeros(64, np.float16)}, "lin0 is float16 (64,), not float32 (64,)"),
        (None, {"lin0": np.full(64, np.nan, np.float32)}, "lin0 is not finite"),
        (None, {"lin0": np.full(64, -1, np.float32)}, "lin0 is negative"),
    ],
)
def test_files_that_are_refused(tmp_path, metadata, changed, reason):
    path = squeeze_file(tmp_path / "lpips.safetensors", metadata, **changed)
    refused(lambda: convert.load(path), f"{path}: ", reason, "python -m srgan_jax.convert.lpips")


def test_files_that_are_no_safetensors(tmp_path):
    path = tmp_path / "lpips.safetensors"
    load = functools.partial(convert.load, path)
    refused(load, f"{path}: ", "no such file")
    whole = squeeze_file(path).read_bytes()
    for content in (b"", b"PK\3\4 a .pth", whole[:-1], whole[:99]):
        path.write_bytes(content)
        refused(load, f"{path}: ", "not a whole .safetensors file")
    refused(lambda: convert.load(tmp_path), f"{tmp_path}: ", "not a whole .safetensors file")


def refused(function, *texts: str) -> None:
    """One line for the user that holds all of these."""
    with pytest.raises(UserError) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message
    for text in texts:
        assert text in message


@pytest.fixture
def files(tmp_path):
    """Trunk and heads as PyTorch's users have them, and where to write: arguments of `convert`."""
    torch = pytest.importorskip("torch", reason="reads PyTorch's files")
    states = {"trunk": {}, "heads": {}}
    for name, array in random_params("squeeze").items():
        tensor = torch.from_numpy(array)
        if name.startswith("lin"):
            states["heads"][f"{name}.model.1.weight"] = tensor.reshape(1, -1, 1, 1)
        elif name.endswith("kernel"):
            key = name.replace("kernel", "weight")
            states["trunk"][key] = tensor.permute(3, 2, 0, 1).contiguous()
        else:
            states["trunk"][name] = torch.nn.Parameter(tensor)
    paths = {name: str(tmp_path / f"{name}.pth") for name in states}
    for name, path in paths.items():
        torch.save(states[name], path)
    return paths | {"out": str(tmp_path / "lpips.safetensors")}


def command(files: dict[str, str]) -> subprocess.CompletedProcess:
    arguments = [f"--{name}={path}" for name, path in files.items()]
    return subprocess.run(
        [sys.executable, "-m", "srgan_jax.convert.lpips", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(files, tmp_path):
    ended = command(files)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{files['out']}: LPIPS of squeeze\n"
    assert sorted(os.listdir(tmp_path)) == ["heads.pth", "lpips.safetensors", "trunk.pth"]
    net, params = convert.load(files["out"])
    assert net == "squeeze"
    for name, array in random_params("squeeze").items():
        np.testing.assert_array_equal(params[name], array)


def test_the_command_without_a_file():
    ended = command({"trunk": "trunk.pth", "out": "lpips.safetensors"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("srgan_jax: error: --heads is missing")
    assert ended.stderr.count("\n") == 1


def test_without_pytorch(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    out = str(tmp_path / "lpips.safetensors")
    refused(lambda: convert.convert("t.pth", "h.pth", out), "--trunk=t.pth", "pip install torch")


def test_what_the_command_refuses(files, tmp_path):
    out = pathlib.Path(files["out"])
    out.write_bytes(b"from before")
    text = tmp_path / "text.pth"
    text.write_text("not a state dict")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(pathlib.Path(files["trunk"]).read_bytes()[:-1000])
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(os.listdir(tmp_path))
    for changed, *texts in (
        ({"trunk": str(tmp_path / "none.pth")}, "--trunk=", "none.pth: no such file"),
        ({"trunk": str(tmp_path)}, f"--trunk={tmp_path}: cannot be read"),
        ({"trunk": str(text)}, f"--trunk={text}: not a whole PyTorch file"),
        ({"trunk": str(cut)}, f"--trunk={cut}: not a whole PyTorch file"),
        ({"trunk": files["heads"]}, f"--trunk={files['heads']}: holds no AlexNet"),
        ({"heads": str(text)}, f"--heads={text}: not a whole PyTorch file"),
        ({"heads": files["trunk"]}, "lin0 is missing", "give weights/v0.1/squeeze.pth"),
        ({"out": files["trunk"]}, "ends in .safetensors"),
        ({"out": f"{tmp_path}/no/folder.safetensors"}, "safetensors", "cannot be written"),
        ({"out": f"{text}/lpips.safetensors"}, "safetensors", "cannot be written"),
        ({"out": f"{tmp_path}/folder.safetensors"}, "safetensors", "cannot be written"),
    ):
        refused(lambda changed=changed: convert.convert(**files | changed), *texts)
        assert sorted(os.listdir(tmp_path)) == before
    assert out.read_bytes() == b"from before"


def test_heads_of_version_0_0_are_refused(package, files):
    heads = pathlib.Path(package.__file__).parent / "weights" / "v0.0" / "squeeze.pth"
    refused(
        lambda: convert.convert(files["trunk"], str(heads), files["out"]),
        f"--heads={heads}: of version 0.0",
        "weights/v0.1/squeeze.pth",
    )
    assert not os.path.exists(files["out"])
