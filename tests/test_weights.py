"""Exported generators: what comes back is what was saved, and files that are refused."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from srgan_jax import weights
from srgan_jax.errors import UserError
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables, form_of

# No value is a default, so that a field which is not written comes back wrong.
OTHER = Generator(
    scale=2, blocks=1, channels=8, kernel=3, norm="none", activation="swish", prelu="channel",
    mid="prelu", upsample="nearest", hr_conv=True, input="imagenet", output="tanh",
    base="bilinear", icnr=True,
)  # fmt: skip
USUAL = Generator(scale=4, blocks=1, channels=8)
STORY = {"network": "srresnet", "step": 7, "config": {"seed": 3}}


def random_variables(generator: Generator, seed: int = 0) -> Variables:
    """Every leaf different, so that one that is lost or exchanged is seen."""
    rng = np.random.default_rng(seed)
    form = form_of(generator)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), form)


def assert_equal(a: Variables, b: Variables) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def exported(tmp_path):
    """A file as training writes it."""
    path = tmp_path / "srresnet.safetensors"
    weights.save_generator(path, USUAL, random_variables(USUAL), STORY)
    return path


def read(path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def rewrite(path, change_arrays=None, change_metadata=None) -> None:
    """The same file with something changed, as another program might write it."""
    arrays, header = read(path)
    metadata = json.loads(header["srgan_jax"])
    if change_arrays:
        change_arrays(arrays)
    if change_metadata:
        change_metadata(metadata)
    safetensors.numpy.save_file(arrays, path, metadata={"srgan_jax": json.dumps(metadata)})


@pytest.mark.parametrize("generator", [USUAL, OTHER], ids=["usual", "other"])
def test_round_trip(generator, tmp_path):
    variables = random_variables(generator)
    weights.save_generator(tmp_path / "g.safetensors", generator, variables, STORY)
    loaded = weights.load_generator(tmp_path / "g.safetensors")
    assert loaded.generator == generator
    assert_equal(loaded.variables, variables)


def test_moving_average_is_what_is_loaded_and_both_are_kept(tmp_path):
    path = tmp_path / "g.safetensors"
    raw, average = random_variables(USUAL, 0), random_variables(USUAL, 1)
    weights.save_generator(path, USUAL, raw, STORY, ema=average)
    assert_equal(weights.load_generator(path).variables, average)
    arrays, _ = read(path)
    for prefix, variables in (("", raw), ("ema_", average)):
        for kind, layer, name in (
            ("params", "conv_in", "kernel"),
            ("batch_stats", "block0_bn2", "mean"),
        ):
            np.testing.assert_array_equal(
                arrays[f"{prefix}{kind}/{layer}/{name}"], getattr(variables, kind)[layer][name]
            )


def test_header_says_what_the_file_is(exported):
    arrays, header = read(exported)
    metadata = json.loads(header["srgan_jax"])
    assert metadata["format"] == 1
    assert metadata["ema"] is False
    assert metadata["training"] == STORY
    assert metadata["architecture"] == {
        "scale": 4,
        "blocks": 1,
        "channels": 8,
        "kernel": 9,
        "norm": "batch",
        "activation": "prelu",
        "prelu": "shared",
        "mid": "norm",
        "upsample": "shuffle",
        "hr_conv": False,
        "input": "unit",
        "output": "linear",
        "base": "none",
        "icnr": False,
    }
    assert "[0, 1]" in metadata["ranges"]["input"]
    assert "[-1, 1]" in metadata["ranges"]["output"]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert weights.load_generator(exported).metadata == metadata


def test_no_other_file_is_left(exported):
    assert [file.name for file in exported.parent.iterdir()] == [exported.name]


def test_others_may_read_it_as_the_umask_says(exported):
    plain = exported.parent / "plain"
    plain.write_text("")
    assert exported.stat().st_mode == plain.stat().st_mode


def test_saving_replaces_a_former_file(exported):
    other = random_variables(USUAL, 1)
    weights.save_generator(exported, USUAL, other, STORY)
    assert_equal(weights.load_generator(exported).variables, other)


def test_unwritable(tmp_path):
    with pytest.raises(UserError, match=r"g\.safetensors: cannot be written"):
        weights.save_generator(
            tmp_path / "missing" / "g.safetensors", USUAL, random_variables(USUAL), STORY
        )


def drop(key):
    return lambda arrays: arrays.pop(key)


def put(key, value):
    return lambda arrays: arrays.update({key: value})


def poison(key, value):
    def change(arrays):
        arrays[key] = arrays[key].copy()
        arrays[key].flat[-1] = value

    return change


KERNEL = "params/conv_in/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(KERNEL), "tensor params/conv_in/kernel is missing"),
        (drop("batch_stats/bn_mid/var"), "tensor batch_stats/bn_mid/var is missing"),
        (
            put(KERNEL, np.zeros((9, 9, 3, 9), np.float32)),
            r"tensor params/conv_in/kernel is \(9, 9, 3, 9\), not \(9, 9, 3, 8\)",
        ),
        (poison(KERNEL, np.nan), "tensor params/conv_in/kernel is not finite"),
        (poison("batch_stats/bn_mid/var", np.inf), "batch_stats/bn_mid/var is not finite"),
    ],
    ids=["no kernel", "no variance", "shape", "nan", "inf"],
)
def test_wrong_tensors(exported, change, message):
    rewrite(exported, change)
    with pytest.raises(UserError, match=message) as error:
        weights.load_generator(exported)
    assert str(exported) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metadata: metadata.update(format=2), "format 2"),
        (lambda metadata: metadata.pop("architecture"), "metadata is damaged"),
        (lambda metadata: metadata["architecture"].update(layers=3), "metadata is damaged"),
        (lambda metadata: metadata["architecture"].update(blocks=2), "block1_.* is missing"),
        (lambda metadata: metadata.update(ema=True), "ema_params/.* is missing"),
    ],
    ids=["format", "no architecture", "unknown field", "other architecture", "ema"],
)
def test_wrong_metadata(exported, change, message):
    rewrite(exported, change_metadata=change)
    with pytest.raises(UserError, match=message) as error:
        weights.load_generator(exported)
    assert str(exported) in str(error.value)


def test_metadata_that_is_not_json(exported):
    arrays, _ = read(exported)
    safetensors.numpy.save_file(arrays, exported, metadata={"srgan_jax": "{"})
    with pytest.raises(UserError, match="metadata is damaged"):
        weights.load_generator(exported)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_header(path):
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
        (lambda path: path.write_text("hello"), "not a whole .safetensors file"),
        (lambda path: path.write_bytes(b""), "not a whole .safetensors file"),
        (cut, "not a whole .safetensors file"),
        (cut_in_header, "not a whole .safetensors file"),
        (
            lambda path: safetensors.numpy.save_file({"w": np.zeros(3)}, path),
            "not a generator written by srgan_jax",
        ),
    ],
    ids=["missing", "folder", "text", "empty", "cut", "cut in header", "foreign"],
)
def test_no_file_of_ours(exported, damage, message):
    damage(exported)
    with pytest.raises(UserError, match=message) as error:
        weights.load_generator(exported)
    assert str(exported) in str(error.value)
    assert "\n" not in str(error.value)
