"""What the loop makes of the metrics of its steps, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srgan_jax import config as config_lib
from srgan_jax import loop, recipes, train
from srgan_jax.engine import Engine
from srgan_jax.parallel import Parallel
from srgan_jax.supply import Supply


def pending(**wrong: dict[int, float]) -> list[tuple[int, dict]]:
    """Dispatches of 3, 3 and 2 steps after step 10; `wrong`: values by metric and step."""
    dispatches = []
    for first, done in ((11, 13), (14, 16), (17, 18)):
        metrics = {}
        for name in ("grad_norm/generator", "loss", "loss/pixel"):
            told = wrong.get(name.replace("/", "_"), {})
            steps = range(first, done + 1)
            metrics[name] = jnp.array([told.get(step, step / 100) for step in steps], jnp.float32)
        dispatches.append((done, metrics))
    return dispatches


def test_metrics_are_those_of_the_last_step():
    values, wrong = loop.fetch(pending())
    assert wrong == ""
    assert values == dict.fromkeys(values, float(np.float32(0.18)))
    assert values.keys() == {"grad_norm/generator", "loss", "loss/pixel"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss_pixel": {15: np.nan, 16: np.nan, 18: np.nan}}, "loss/pixel is nan at step 15"),
        ({"loss": {17: np.inf}}, "loss is inf at step 17"),
        ({"grad_norm_generator": {11: np.nan}}, "grad_norm/generator is nan at step 11"),
        # Of one step, the term of the loss; of several, the first step.
        (
            {"grad_norm_generator": {14: np.nan}, "loss_pixel": {14: -np.inf}},
            "loss/pixel is -inf at step 14",
        ),
        (
            {"grad_norm_generator": {12: np.nan}, "loss_pixel": {13: np.nan}},
            "grad_norm/generator is nan at step 12",
        ),
    ],
    ids=str,
)
def test_what_is_not_finite_is_named_with_its_step(given, said):
    assert loop.fetch(pending(**given)) == ({}, said)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_after_the_first_step_nothing_is_compiled_and_nothing_leaves_the_devices(mode):
    config = config_lib.paper()
    small = {"data.crop": 16, "data.batch_size": 8, "generator.blocks": 1, "generator.channels": 4}
    config.update_from_flattened_dict(
        {"data.source": "builtin", "data.placement": "device"} | small
    )
    parallel = Parallel(mode)
    assert len(parallel.devices) == 8
    supply = Supply.from_config(config, parallel, *recipes.load_pictures(config, progress=False))
    phase, _ = recipes.make_phases(config, [8, 0], None, {})
    state = parallel.place_state(train.initial_state(config, phase))
    programs, compiled = [], []
    told = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    engine = Engine(parallel, supply, 2)
    with engine.dispatches(phase, state, lambda *told: programs.append(told)) as ahead:
        done, *_ = next(ahead)
        jax.monitoring.register_event_duration_secs_listener(told)
        try:
            with jax.transfer_guard("disallow"):
                dones = [done, *(done for done, *_ in ahead)]
        finally:
            jax.monitoring.unregister_event_duration_listener(told)
    assert dones == [2, 4, 6, 8]
    assert len(programs) == 1
    assert [event for event in compiled if "compile" in event] == []
