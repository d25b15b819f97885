"""The counts behind docs/scaling.md are those of the compiled steps, and its formula adds up."""

import collections
import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from srgan_jax import config as config_lib
from srgan_jax.benchmark import counts, formula
from srgan_jax.benchmark.machines import MACHINES
from srgan_jax.parallel import Parallel

SMALL = {
    "generator.blocks": 1,
    "generator.channels": 8,
    "discriminator.channels": 8,
    "discriminator.dense": 32,
    "data.crop": 32,
}


def forms(**values) -> list[counts.Forms]:
    """Of both phases of a small SRGAN-MSE."""
    config = config_lib.paper()
    config.gan.content = {"pixel": 1.0, "vgg": 0.0, "tv": 0.0}
    config.update_from_flattened_dict(SMALL | values)
    config_lib.validate(config)
    return counts.forms(config)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("mode", "sharded", "phase"),
    [("jit", False, 0), ("pmap", False, 1), ("jit", True, 1)],
    ids=["pretrain-jit", "gan-pmap", "gan-jit-sharded"],
)
def test_collectives_are_those_of_the_compiled_step(mode, sharded, phase):
    form = forms(**{"optim.sharded": sharded})[phase]
    parallel = Parallel(mode, shard_optimizer=sharded)
    assert len(parallel.devices) == 8
    counted = counts.trace(form, 1, 8, "cpu").sent
    compiled = counts.sent_by(counts.compile_step(form, parallel, 1))
    arrays = [sent for together in compiled for sent in together]
    assert len(compiled) <= len(counted)  # XLA may put several into one

    def sizes(sent):
        return collections.Counter((x.kind, x.of_gradients, x.size) for x in sent)

    assert sizes(arrays) == sizes(counted)
    # One all-reduce for each update of a network, of all its parameters and some metrics.
    gradients = [sent.size for sent in counted if sent.of_gradients]
    params = [4 * counts.elements(x.variables.params) for x in form.networks.values()]
    assert len(gradients) == len(params)
    for size, least in zip(sorted(gradients), sorted(params), strict=True):
        assert least < size < least + 40
    assert sharded == any(sent.kind == "all-gather" for sent in counted)


@pytest.mark.parametrize("parts", [1, 2])
def test_batch_norm_synchronises_each_pass_of_each_part(parts):
    load = counts.load_of(forms(**{"optim.accumulate": parts})[1], 8, parts)
    # G has two in each of its blocks and one after them, D seven.
    generator_passes = 2 if parts == 1 else 3  # in parts one for D's update too; and the way back
    discriminator_passes = 2 * 2  # real and fake together, and in G's update, there and back
    assert len(load.batch_norm) == parts * (3 * generator_passes + 7 * discriminator_passes)
    assert len(load.gradients) == 2


def test_arithmetic_is_counted_as_xla_does():
    form = forms(**{"generator.channels": 32, "discriminator.channels": 32})[1]
    step = jax.jit(form.step, static_argnums=0)
    lowered = step.lower(form.phase.recipe, form.state, form.vgg_params, form.batch(2))
    theirs = lowered.cost_analysis()["flops"]  # with what is done element by element
    ours = counts.trace(form, 2, 1, "cpu").flops
    assert 0.93 * theirs < ours < theirs


def test_loops_are_counted_as_often_as_they_run():
    def once(x):
        return jax.lax.psum(x @ x, "devices")

    def often(x):
        return jax.lax.scan(lambda x, _: (once(x), None), x, length=5)[0]

    x = np.ones((4, 4), np.float32)
    one, five = (
        counts.count(jax.make_jaxpr(f, axis_env=[("devices", 2)])(x).jaxpr) for f in (once, often)
    )
    assert one.flops == 2 * 4**3
    assert one.sent == (counts.Sent("all-reduce", (4, 4), 64),)
    assert five == counts.Count(5 * one.flops, 5, 5 * one.sent)


def test_sending():
    machine = MACHINES["h100"]
    assert machine.all_reduce(1e9, 1) == 0
    # In one host: all but its own eighth there and back.
    quick = dataclasses.replace(machine, call_us=0, inside_us=0, network_us=0)
    assert quick.all_reduce(450e9, 8) == pytest.approx(2 * 7 / 8)
    assert quick.all_gather(450e9, 8) == pytest.approx(7 / 8)
    # Between two hosts each device sends its eighth.
    between = quick.all_reduce(400e9, 16) - quick.all_reduce(400e9, 8)
    assert between == pytest.approx(2 * (1 / 2) * 400 / 8 / 50)
    # Nothing to send: a call, seven devices down and up, a tree of 512 hosts.
    assert machine.all_reduce(0, 4096) == pytest.approx((4.4 + 2 * (7 * 0.52 + 9 * 5)) * 1e-6)
    # A torus of 16 x 16 x 16: half way around each axis, twice.
    assert MACHINES["v5p"].all_reduce(0, 4096) == pytest.approx((5 + 48) * 1e-6)


def test_steps():
    machine = MACHINES["h100"]
    load = formula.Load(
        image_flops=1e10, layers=100, params=10**6, gradients=(4 * 10**6,), batch_norm=(512,) * 66,
        gathered=(),
    )  # fmt: skip
    device = formula.predicted(load, machine, 0.5, 8)
    assert device.floor == pytest.approx(100 * machine.layer_us * 1e-6)
    assert device.image == pytest.approx(1e10 / (machine.teraflops * 0.5e12))
    assert device.update == pytest.approx(28e6 / (machine.memory_gbps * 1e9))
    for n in (1, 8, 4096):
        parts = formula.times(load, device, machine, n, 1)
        assert parts.compute == device.floor
        assert (parts.batch_norm == 0) == (n == 1)
        enough = formula.enough_images(device, parts)
        rest = max(device.floor, parts.step - parts.compute)
        assert (enough - 1) * device.image < rest <= enough * device.image
    # Sharded, a device reads and writes an eighth of the moments, and has the rest sent.
    sharded = dataclasses.replace(load, gathered=(4 * 10**6,))
    assert formula.update_seconds(sharded, machine, 8) == pytest.approx(
        (24 / 8 + 12) * 1e6 / (machine.memory_gbps * 1e9)
    )
    whole, split = (formula.times(x, device, machine, 8, 1) for x in (load, sharded))
    assert split.update - whole.update == pytest.approx(machine.all_gather(4e6, 8))


@pytest.fixture
def command(root):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        small = [f"--config.{key}={value}" for key, value in SMALL.items()]
        start = [sys.executable, "-m", "srgan_jax.benchmark.scaling"]
        return subprocess.run(
            [*start, *arguments, *small],
            cwd=root,
            env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # compiles in half the time
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_command_tells_and_measures(command, tmp_path):
    done = command(
        "--config=configs/srgan.py:srresnet_mse", "--measure=1", "--seconds=0.1",
        "--machine=v5e", "--inside_us=2", "--devices=1,16,512",
        f"--output={tmp_path / 'rows.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "at most 16 devices can share 16 images" in done.stdout
    assert done.stdout.count(" images/s\n") == 1
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["machine"]["inside_us"] == 2
    assert written["machine"]["group"] == 256
    found = [(row["devices"], row["batch"]) for row in written["rows"]]
    assert found == [(1, 16), (16, 16), (1, 16), (16, 256), (512, 8192)]
    for row in written["rows"]:
        assert row["step"] == pytest.approx(
            row["compute"] + row["update"] + row["gradients"] + row["batch_norm"]
        )
        assert row["learning_rate"] == pytest.approx(1e-4 * (row["batch"] / 16) ** 0.5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=configs/srgan.py:srresnet_mse", "--phase=gan"], "trains no such phase"),
        (["--config=configs/srgan.py:mse", "--devices=1,some"], "--devices=1,some"),
    ],
)
def test_what_cannot_be_told_is_refused(command, arguments, told):
    done = command(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
