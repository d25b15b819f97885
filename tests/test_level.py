"""The grid that a convolution of many pixels may leave, taken away."""

import jax
import numpy as np
from PIL import Image

from srgan_jax import weights
from srgan_jax.convert import level
from srgan_jax.data.degradation import Degradation
from srgan_jax.evaluate.pairs import make_pair
from srgan_jax.models.generator import Generator
from srgan_jax.state import Variables, init_variables


def test_a_grid_is_levelled(tmp_path, monkeypatch, noise, capsys):
    """A bicubic network whose bias makes a grid, and whose mean colour is wrong, which stays."""
    generator = Generator(blocks=1, channels=8, norm="none", upsample="direct", base="bicubic")
    variables = init_variables(generator, jax.random.key(0), (1, 8, 8, 3))
    params = jax.tree.map(np.array, variables.params)
    grid = np.random.default_rng(0).normal(0, 0.1, (4, 4, 3)).astype(np.float32)
    params["conv_out"]["bias"] = grid.reshape(-1)
    src, dst = tmp_path / "srgan.safetensors", tmp_path / "level.safetensors"
    weights.save_generator(src, generator, Variables(params, {}), {"network": "srgan"})
    (tmp_path / "train").mkdir()
    for i in range(2):
        Image.fromarray(noise(400, 400, seed=i)).save(tmp_path / "train" / f"{i}.png")
    pairs = [
        make_pair(str(i), np.asarray(noise(400, 400, seed=i))[:384, :384], Degradation(4))
        for i in range(2)
    ]
    found = level.levelled(generator, Variables(params, {}), pairs)
    bias = found.params["conv_out"]["bias"].reshape(4, 4, 3)
    np.testing.assert_allclose(bias.mean((0, 1)), grid.mean((0, 1)), atol=1e-6)
    assert bias.std((0, 1)).max() < 0.2 * grid.std((0, 1)).min()
    for layer, arrays in params.items():
        if layer != "conv_out":
            jax.tree.map(np.testing.assert_array_equal, found.params[layer], arrays)

    flags = type("Flags", (), {"data": str(tmp_path / "train")})
    monkeypatch.setattr(level.flags, "FLAGS", flags)
    level.main(["", str(src), str(dst)])
    assert "levelled on 2 photographs" in capsys.readouterr().out
    np.testing.assert_array_equal(
        weights.load_generator(dst).variables.params["conv_out"]["bias"].reshape(4, 4, 3), bias
    )
