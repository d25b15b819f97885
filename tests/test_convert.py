"""Generators from PyTorch's projects and for other frameworks, and the command that does both."""

import io
import itertools
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import skimage.data

from srgan_jax import weights
from srgan_jax.convert import __main__ as command
from srgan_jax.convert import exports, generators, tensors, verify
from srgan_jax.errors import UserError
from srgan_jax.evaluate.methods import super_resolve
from srgan_jax.models.generator import STAGES, Generator
from srgan_jax.state import Variables, form_of

pytestmark = pytest.mark.usefixtures("quick_compile")

LORNATANG = {"head": "conv1", "mid": "conv2", "tail": "conv3", "block": "trunk.{}.rcb"}
LORNATANG["up"] = "upsampling.{}.upsample_block"
OLD_LORNATANG = {f"{k}": f"conv_block{i}" for i, k in enumerate(("head", "mid", "tail"), 1)}
OLD_LORNATANG |= {"block": "trunk.{}.rcb", "up": "upsampling.{}.upsample_block"}
LORNATANG_2021 = LORNATANG | {"block": "trunk.{}", "up": "subpixel_conv.{}"}
EARLY_2021 = LORNATANG_2021 | {"up": "upsampling.{}"}
BASICSR = {"trunk": "body", "up": "upconv{}", "hr": "conv_hr", "up_slope": 0.1}
KAIR = BASICSR | {"trunk": "recon_trunk", "hr": "HRconv"}
MMAGIC = BASICSR | {"trunk": "trunk_net", "up": "upsample{}.upsample_conv", "up_slope": 1.0}

PEERS = {
    "leftthomas, early": ("Leftthomas", {"early": True}, (2, 2), "early"),
    "leftthomas": ("Leftthomas", {"early": False}, (2, 2, 2), "leftthomas/SRGAN"),
    "Lornatang": ("Lornatang", LORNATANG, (2, 2), "Lornatang"),
    "Lornatang, early 2022": ("Lornatang", OLD_LORNATANG, (2,), "Lornatang"),
    "Lornatang, 2021": ("Lornatang", LORNATANG_2021, (2, 2), "Lornatang"),
    "Lornatang, early 2021": ("Lornatang", EARLY_2021, (2, 2), "Lornatang"),
    "BasicSR": ("MSRResNet", BASICSR, (3,), "BasicSR"),
    "KAIR": ("MSRResNet", KAIR, (2, 2), "KAIR"),
    "mmagic": ("MSRResNet", MMAGIC, (2, 2), "mmagic"),
    "KAIR 0": ("MSRResNet0", {"nearest": True}, (2, 2), "MSRResNet0"),
    "KAIR 0, shuffle": ("MSRResNet0", {"nearest": False}, (3,), "MSRResNet0"),
    "aitorzip": ("Aitorzip", {}, (2, 2), "aitorzip"),
    "sgrvinod": ("Sgrvinod", {}, (2, 2), "sgrvinod"),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch's networks")


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Details of a photograph in two sizes, one of them twice, [B, h, w, 3] in [0, 1]."""
    picture = skimage.data.astronaut().astype(np.float32) / 255
    return [
        picture[None, 60:84, 200:217],
        np.stack([picture[100:113, 180:212], picture[30:43, 80:112]]),
    ]


def trained(torch, name, blocks=2, channels=8):
    """A peer's network with nothing as it starts: statistics, slopes and biases too."""
    from srgan_jax.convert import peers

    kind, arguments, factors, _ = PEERS[name]
    torch.manual_seed(0)
    network = getattr(peers, kind)(blocks=blocks, channels=channels, factors=factors, **arguments)
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape) * 0.4 + (0.6 if tensor.min() > 0.3 else 0.0)
    return network.eval()


def state(network) -> dict:
    return dict(network.state_dict())


def find(path) -> generators.Found | None:
    return generators.find(path, tensors.read(path))


@pytest.mark.parametrize("name", PEERS)
def test_every_projects_generator(name, torch, photographs, tmp_path):
    kind, arguments, factors, project = PEERS[name]
    path = tmp_path / "file"  # its name tells nothing
    torch.save(state(trained(torch, name)), path)
    found = find(path)
    assert project in found.layout.project
    assert found.layout.peer == (kind, arguments)
    assert STAGES[found.generator.scale] == factors
    assert (found.generator.blocks, found.generator.channels) == (2, 8)
    for lr_image in photographs:
        assert verify.generator_difference(found, lr_image) <= 1e-5

    # What is written is what was found.
    command.convert(str(path), str(tmp_path / "ours.safetensors"), check=False)
    exported = weights.load_generator(tmp_path / "ours.safetensors")
    assert exported.generator == found.generator
    jax.tree.map(np.testing.assert_array_equal, exported.variables, found.variables)
    assert project in exported.metadata["training"]["converted"]["project"]


def test_the_layouts_differ_in_what_they_compute(torch, photographs, tmp_path):
    """The comparison above would see a layout taken for another one."""
    torch.save(state(trained(torch, "mmagic")), tmp_path / "g.pth")
    found = find(tmp_path / "g.pth")
    wrong = found._replace(
        layout=found.layout._replace(peer=("MSRResNet", MMAGIC | {"up_slope": 0.1}))
    )
    assert verify.generator_difference(wrong, photographs[0]) > 1e-3


def wrapped(torch, how, arrays):
    other = {name: torch.zeros_like(x) for name, x in arrays.items()}
    prefixed = {f"generator.{name}": x for name, x in arrays.items()}
    discriminator = {"discriminator.conv0_0.weight": torch.zeros(8, 3, 3, 3)}
    return {
        "params_ema": {"params": other, "params_ema": arrays},
        "ema_state_dict": {"epoch": 3, "state_dict": other, "ema_state_dict": arrays},
        "params": {"params": arrays},
        "state_dict": {"state_dict": arrays, "optimizer": {"state": {0: {"step": 1}}}},
        "module.": {f"module.{name}": x for name, x in arrays.items()},
        "_orig_mod.": {"state_dict": {f"_orig_mod.{name}": x for name, x in arrays.items()}},
        "generator.": {"meta": {"iter": 5}, "state_dict": prefixed | discriminator},
        "generator_ema.": {
            f"{prefix}.module.{name}": x
            for prefix, tensors in (("generator", other), ("generator_ema", arrays))
            for name, x in tensors.items()
        },
        "half": {name: x.half() for name, x in arrays.items()},
    }[how]


@pytest.mark.parametrize(
    "how",
    ["params_ema", "ema_state_dict", "params", "state_dict", "module.", "_orig_mod.",
     "generator.", "generator_ema.", "half"],
)  # fmt: skip
def test_wrappers_and_prefixes(how, torch, tmp_path):
    arrays = state(trained(torch, "BasicSR"))
    torch.save(wrapped(torch, how, arrays), tmp_path / "g.pth")
    found = find(tmp_path / "g.pth")
    assert found.place == {"half": "", "_orig_mod.": "state_dict._orig_mod", "module.": "module",
                           "generator.": "state_dict.generator",
                           "generator_ema.": "generator_ema.module"}.get(how, how)  # fmt: skip
    kernel = arrays["conv_first.weight"].numpy().transpose(2, 3, 1, 0)
    ours = found.variables.params["conv_in"]["kernel"]
    np.testing.assert_allclose(ours, kernel, atol=1e-3 if how == "half" else 0)


def test_a_slope_for_each_channel(torch, photographs, tmp_path):
    network = trained(torch, "Lornatang")
    for module in network.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight = torch.nn.Parameter(torch.rand(8))
    torch.save(state(network), tmp_path / "g.pth")
    found = find(tmp_path / "g.pth")
    assert found.generator.prelu == "channel"
    assert verify.generator_difference(found, photographs[0]) <= 1e-5


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        command.recognise(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", PEERS)
def test_tensors_that_are_missing_too_many_or_wrong_are_named(name, torch, tmp_path):
    """Each of a project's tensors in turn is taken away, then a wrong one put in its place."""
    path = tmp_path / "g.pth"
    whole = state(trained(torch, name, blocks=1, channels=2))
    named = 0
    for key in whole:
        if key.endswith("num_batches_tracked"):
            continue
        torch.save({k: x for k, x in whole.items() if k != key}, path)
        named += key in refused(path)
        torch.save(whole | {key: torch.ones(5, 4)}, path)
        assert "(5, 4)" in refused(path) or key in refused(path)
        torch.save(whole | {key: torch.full_like(whole[key], float("nan"))}, path)
        assert f"{key} is not finite" in refused(path)
    # Without the few that a layout is known by, the file is of none.
    assert named >= len(whole) / 2
    torch.save(whole | {"extra.weight": torch.ones(3)}, path)
    assert "which has no extra.weight" in refused(path)


def test_lornatangs_tanh_is_refused_by_name(torch, tmp_path):
    arrays = state(trained(torch, "Lornatang, 2021"))
    moved = {name.replace("conv3.", "conv3.0."): x for name, x in arrays.items()}
    torch.save(moved, tmp_path / "g.pth")
    assert "Lornatang/SRGAN-PyTorch of 2021 with tanh" in refused(tmp_path / "g.pth")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale": 5}, "scale=5 is not 2 or 3 or 4 or 8"),
        ({"blocks": "x"}, "blocks='x' is not a whole number"),
        ({"blocks": 0}, "blocks=0 is below 1"),
        ({"activation": "gelu"}, "activation='gelu' is not 'prelu' or 'swish'"),
        ({"hr_conv": 1}, "hr_conv=1 is not False or True"),
        ({"attention": True}, "attention=True is no switch"),
    ],
)
def test_an_architecture_that_there_is_not(changes, says, torch, tmp_path):
    saved = torch.load(io.BytesIO(exports.to_pytorch(*random_generator({}))), weights_only=True)
    torch.save(saved | {"architecture": saved["architecture"] | changes}, tmp_path / "g.pth")
    assert says in refused(tmp_path / "g.pth")


def test_our_state_dict_without_its_architecture(torch, tmp_path):
    saved = torch.load(io.BytesIO(exports.to_pytorch(*random_generator({}))), weights_only=True)
    torch.save(saved["state_dict"], tmp_path / "g.pth")
    assert "but has no architecture: save" in refused(tmp_path / "g.pth")


@pytest.mark.parametrize("ending", [".onnx", ".stablehlo"])
def test_what_is_only_written_is_not_read(ending, tmp_path):
    pytest.importorskip(LIBRARY[ending])
    path = tmp_path / "export"
    path.write_bytes(command.WRITERS[ending](*random_generator({})))
    message = refused(path)
    assert ("ONNX, which is not read" if ending == ".onnx" else "an unknown kind") in message


def test_another_kernel_size_than_the_projects(torch, tmp_path):
    arrays = state(trained(torch, "leftthomas"))
    arrays["block1.0.weight"] = torch.ones(8, 3, 3, 3)
    torch.save(arrays, tmp_path / "g.pth")
    assert "block1.0.weight is (8, 3, 3, 3), not (8, 3, 9, 9)" in refused(tmp_path / "g.pth")


def test_a_scale_that_is_not_ours(torch, tmp_path):
    from srgan_jax.convert import peers

    network = peers.MSRResNet(blocks=1, channels=4, factors=(3, 3), **BASICSR)
    torch.save(network.state_dict(), tmp_path / "g.pth")
    assert "in stages by 3 and 3" in refused(tmp_path / "g.pth")


def test_a_discriminator(torch, tmp_path):
    arrays = {"features.0.weight": torch.ones(64, 3, 3, 3), "features.0.bias": torch.ones(64)}
    arrays |= {"features.3.weight": torch.ones(64), "classifier.2.weight": torch.ones(1, 1024)}
    torch.save({"state_dict": arrays}, tmp_path / "d.pth")
    assert "a discriminator: give the generator's" in refused(tmp_path / "d.pth")


def test_an_unknown_network_is_described(torch, tmp_path):
    torch.save({"conv_body.weight": torch.ones(4, 4, 3, 3)}, tmp_path / "g.pth")
    message = refused(tmp_path / "g.pth")
    for part in ("PyTorch with 1 tensors (conv_body.weight)", "Lornatang", "torchvision"):
        assert part in message


def test_a_file_without_tensors(torch, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "g.pth")
    assert "without named tensors: give a state dict" in refused(tmp_path / "g.pth")


def test_a_whole_pickled_module(torch, tmp_path):
    """As sgrvinod's checkpoints are: they can only be read by running what they name."""
    torch.save({"generator": trained(torch, "sgrvinod")}, tmp_path / "g.pth")
    assert "torch.save(model.state_dict(), FILE)" in refused(tmp_path / "g.pth")


# A generator that somebody trained, and its published figures


@pytest.fixture(scope="module")
def published(shared) -> pathlib.Path:
    return shared / "weights" / "pytorch_srgan_x4_5blocks" / "netG_epoch_4_100.pth"


def test_a_trained_generator_is_what_it_is_in_pytorch(published, torch, photographs):
    found = find(published)
    assert found.generator == Generator(blocks=5, mid="prelu", output="tanh")
    for lr_image in photographs:
        assert verify.generator_difference(found, lr_image) <= 1e-5


def test_a_trained_generator_has_its_published_psnr(published, torch, shared):
    """30.654 dB on Set5, of BT.601's Y without 4 pixels at each side: weights/README.md there."""
    from srgan_jax import images

    found = find(published)
    folder = shared / "data" / "benchmarks" / "Set5"
    values = []
    for path in sorted((folder / "HR").glob("*.png")):
        lr_image, _ = images.read(next((folder / "LR_bicubic_X4").glob(f"{path.stem}*")))
        hr, _ = images.read(path)
        sr = super_resolve(found.generator, found.variables, lr_image[None])[0]
        hr = hr[: sr.shape[0], : sr.shape[1]]
        values.append(psnr_of_luma(np.asarray(sr), hr))
    assert len(values) == 5
    assert np.mean(values) == pytest.approx(30.654, abs=0.01)


def psnr_of_luma(sr: np.ndarray, hr: np.ndarray) -> float:
    """Plainly, so that it depends on nothing of ours."""
    weights_of_y = np.array([65.481, 128.553, 24.966]) / 255
    sr, hr = ((x.astype(np.float64) @ weights_of_y)[4:-4, 4:-4] for x in (sr, hr))
    return float(10 * np.log10(255**2 / np.mean((sr - hr) ** 2)))


# Out


SWITCHES = {
    "the paper's": {},
    "a bicubic base": {"base": "bicubic", "prelu": "channel"},
    "MSRResNet": {
        "scale": 3, "base": "bilinear", "mid": "none", "hr_conv": True, "kernel": 3,
        "norm": "none",
    },
    "others": {
        "scale": 8, "upsample": "nearest", "mid": "prelu", "input": "imagenet", "output": "tanh",
    },
    "direct": {"scale": 3, "upsample": "direct", "base": "bicubic", "kernel": 3},
    "swish": {"scale": 2, "activation": "swish", "input": "imagenet"},
}  # fmt: skip


def random_generator(switches) -> tuple[Generator, Variables]:
    generator = Generator(blocks=2, channels=8, **switches)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            values = rng.normal(0, 0.5 * fan_in**-0.5, leaf.shape)
        else:
            values = rng.uniform(0.5, 1.0, leaf.shape) * (1 if name in ("scale", "var") else 0.3)
        return np.asarray(values, np.float32)

    return generator, jax.tree_util.tree_map_with_path(fill, form_of(generator))


LIBRARY = {".onnx": "onnxruntime", ".pth": "torch", ".stablehlo": "flatbuffers"}


@pytest.mark.parametrize("ending", LIBRARY)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_exports_are_flaxs_function(switches, ending, photographs):
    pytest.importorskip(LIBRARY[ending], reason="runs what was exported")
    generator, variables = random_generator(switches)
    data = command.WRITERS[ending](generator, variables)
    for lr_image in photographs:
        flax = exports.to_unit_image(generator, variables)(lr_image)
        assert np.std(flax) > 0.03
        assert np.mean((flax > 0) & (flax < 1)) > 0.3  # not all of it clipped
        assert verify.export_difference(data, ending, generator, variables, lr_image) <= 1e-5


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_from_pytorch_back_again(switches, torch, tmp_path):
    generator, variables = random_generator(switches)
    (tmp_path / "g.pth").write_bytes(exports.to_pytorch(generator, variables))
    found = find(tmp_path / "g.pth")
    assert found.generator == generator
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)


def test_onnx_takes_any_size_and_says_what_it_is():
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(exports.to_onnx(*random_generator({})))
    sizes = [dimension.dim_param for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", "", "height", "width"]
    assert model.graph.input[0].name == "input"
    assert model.graph.output[0].name == "output"
    assert {prop.key for prop in model.metadata_props} == {"srgan_jax"}


@pytest.mark.parametrize(
    ("ending", "library"), [(".onnx", "onnx"), (".pth", "torch"), (".stablehlo", "flatbuffers")]
)
def test_a_library_that_is_missing_is_named(ending, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r"pip install -e \.\[convert\]"):
        command.WRITERS[ending](*random_generator({}))


# The command


def run(*arguments) -> subprocess.CompletedProcess:
    command_line = [sys.executable, "-m", "srgan_jax.convert", *map(str, arguments)]
    return subprocess.run(command_line, capture_output=True, text=True)


def test_the_command_says_what_it_found(torch, tmp_path):
    torch.save(state(trained(torch, "KAIR 0")), tmp_path / "g.pth")
    result = run(tmp_path / "g.pth", tmp_path / "ours.safetensors", "--verify")
    assert (result.returncode, result.stderr) == (0, "")
    for part in (
        "KAIR, MSRResNet0", "x4, 2 blocks of 8 channels", "upsample=nearest", "parameters",
        "value range", "ReLU (act_mode='R')", "verified", "ours.safetensors",
    ):  # fmt: skip
        assert part in result.stdout


@pytest.mark.parametrize("ending", LIBRARY)
def test_the_command_exports_and_verifies(ending, tmp_path, capsys):
    pytest.importorskip(LIBRARY[ending], reason="runs what was exported")
    ours, out = tmp_path / "g.safetensors", tmp_path / f"g{ending}"
    weights.save_generator(ours, *random_generator({}), {"network": "srgan"})
    command.convert(str(ours), str(out), check=True)
    assert "against Flax: SR differs by" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted([ours, out])
    with pytest.raises(UserError, match=f"missing/g{ending}: cannot be written"):
        command.convert(str(ours), str(tmp_path / "missing" / out.name), check=False)


def test_ours_is_made_ready_to_pass_on(tmp_path):
    generator, average = random_generator({})
    last = jax.tree.map(lambda x: x + 1, average)
    paths = {"path": "/home/me/train", "lr_path": ""}
    config = {
        "data": paths | {"crop": 96},
        "vgg": {"path": "keras"},
        "init_from": "runs/a.safetensors",
    }
    ours, out = tmp_path / "g.safetensors", tmp_path / "out.safetensors"
    lines = ["data.path: /home/me/a -> /home/me/b", "init_from:  -> /home/me/c", "seed: 0 -> 1"]
    training = {
        "network": "srgan",
        "config": config,
        "changed": [{"after_step": 1, "config": lines}],
    }
    weights.save_generator(ours, generator, last, training, ema=average)
    command.convert(str(ours), str(out), check=False)
    before, after = weights.load_generator(ours), weights.load_generator(out)
    assert after.generator == before.generator == generator
    jax.tree.map(np.testing.assert_array_equal, after.variables, average)
    assert not after.metadata["ema"]
    assert out.stat().st_size < 0.6 * ours.stat().st_size
    told = after.metadata["training"]
    assert told["network"] == "srgan"
    assert told["changed"] == [{"after_step": 1, "config": ["seed: 0 -> 1"]}]
    assert told["config"] == {
        "data": {"path": "train", "lr_path": "", "crop": 96},
        "vgg": {"path": "keras"},
        "init_from": "a.safetensors",
    }
    assert before.metadata["training"]["config"]["data"]["path"] == "/home/me/train"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "0 files given, not two"),
        (["missing.pth", "g.safetensors"], "missing.pth: no such file"),
        (["page.pth", "g.safetensors"], "a web page: the download failed"),
        (["page.pth", "g.png"], "g.png: give a name that ends in .safetensors, .onnx"),
        (["missing.pth", "vgg.safetensors"], "missing.pth: no such file"),
        (["vgg.safetensors", "vgg.safetensors"], "is SRC itself"),
        (["vgg.safetensors", "vgg.onnx"], "VGG19 is written as .safetensors only"),
        (["vgg.safetensors", "missing/vgg.safetensors"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, says, tmp_path, monkeypatch, capsys):
    import safetensors.numpy

    monkeypatch.chdir(tmp_path)
    pathlib.Path("page.pth").write_text("<html>not found</html>")
    arrays = {
        "features.0.weight": np.ones((64, 3, 3, 3), np.float32),
        "features.0.bias": np.ones(64, np.float32),
    }
    safetensors.numpy.save_file(arrays, "vgg.safetensors")
    before = sorted(tmp_path.iterdir())
    if not arguments:
        result = run()
        assert result.returncode == 2
        message = result.stderr.removeprefix("srgan_jax: error: ").strip()
    else:
        with pytest.raises(UserError) as caught:
            command.convert(*arguments, check=False)
        message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert sorted(tmp_path.iterdir()) == before


def test_where_they_differ_nothing_is_written(torch, tmp_path, monkeypatch):
    torch.save(state(trained(torch, "BasicSR")), tmp_path / "g.pth")
    monkeypatch.setattr(verify, "generator_difference", lambda *_: float("nan"))
    with pytest.raises(UserError, match="SR differs by nan"):
        command.convert(str(tmp_path / "g.pth"), str(tmp_path / "g.safetensors"), check=True)
    assert [file.name for file in tmp_path.iterdir()] == ["g.pth"]
