"""What of a config may change when a run is continued, what was best, and how long phases are."""

import copy
import json
import math
import pathlib

import jax
import numpy as np
import optax
import pytest

from srgan_jax import changes, config, continuing, deterministic, recipes, weights, workdir
from srgan_jax.best import Best
from srgan_jax.errors import UserError
from srgan_jax.loop import Record
from srgan_jax.models.generator import Generator
from srgan_jax.state import TrainState, Variables, init_variables, start_gan, start_pretraining

OLD = config.to_json(config.paper())


def edited(**values):
    """The paper's config with `group__key=value` set."""
    c = config.paper()
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return c


def lines(found) -> list[str]:
    return [str(change) for change in found]


def test_a_config_like_the_old_one_has_no_changes():
    assert changes.classify(OLD, config.paper()) == changes.Changes()


def test_changes_are_told_by_key_and_kind():
    found = changes.classify(
        OLD,
        edited(
            log__every_steps=10, gan__content__tv=2e-8, generator__blocks=8, gan__learning_rate=1e-5
        ),
    )
    assert lines(found.harmless) == ["log.every_steps: 100 -> 10"]
    assert lines(found.learned) == [
        "gan.content.tv: 0.0 -> 2e-08",
        "gan.learning_rate: None -> 1e-05",
    ]
    assert lines(found.impossible) == ["generator.blocks: 16 -> 8"]
    assert found.lines() == lines(found.harmless + found.learned + found.impossible)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("checkpoint.keep_best", 3, "harmless"),
        ("data.damaged", "skip", "harmless"),
        ("deterministic", True, "harmless"),
        ("eval.every_steps", 7, "harmless"),
        ("parallel", "pmap", "harmless"),
        ("data.batch_size", 8, "learned"),
        ("data.path", "elsewhere", "learned"),
        ("ema_decay", 0.5, "impossible"),
        ("discriminator.slope", 0.1, "impossible"),
        ("eval.best", "", "learned"),
        ("eval.path", "elsewhere", "learned"),
        ("gan.steps", 10, "learned"),
        ("seed", 1, "learned"),
        ("vgg.layers", ("relu2_2",), "learned"),
    ],
)  # fmt: skip
def test_kinds(key, value, kind):
    found = changes.classify(OLD, edited(**{key.replace(".", "__"): value}))
    assert [change.key for change in getattr(found, kind)] == [key]
    assert len(found.lines()) == 1


def test_another_decay_of_a_moving_average_that_there_is():
    old = config.to_json(edited(ema_decay=0.5))
    assert lines(changes.classify(old, edited(ema_decay=0.9)).learned) == ["ema_decay: 0.5 -> 0.9"]
    assert lines(changes.classify(old, edited()).impossible) == ["ema_decay: 0.5 -> 0.0"]


def test_another_crop_where_the_discriminator_does_not_depend_on_it():
    assert changes.classify(OLD, edited(data__crop=64)).impossible
    assert changes.classify(
        config.to_json(edited(gan__steps=0)), edited(gan__steps=0, data__crop=64)
    ).learned
    pool = {"discriminator__head": "pool"}
    assert changes.classify(config.to_json(edited(**pool)), edited(**pool, data__crop=64)).learned


def test_a_key_that_the_old_program_did_not_have():
    old = copy.deepcopy(OLD)
    del old["deterministic"], old["eval"]["best"], old["vgg"], old["checkpoint"]["keep_best"]
    assert changes.classify(old, config.paper()) == changes.Changes()
    assert lines(changes.classify(old, edited(eval__best="paper/ssim")).learned) == [
        "eval.best: paper/psnr -> paper/ssim"
    ]


def test_a_key_that_the_new_program_does_not_have():
    found = changes.classify(OLD | {"gone": {"far": 1}}, config.paper())
    assert lines(found.learned) == ["gone.far: 1 -> absent"]


def test_what_validations_depend_on():
    of_validation = {"eval__path": "x", "eval__best": "", "data__degradation": ("gaussian",)}
    for key, value in of_validation.items():
        assert changes.classify(OLD, edited(**{key: value})).of_validation()
    assert not changes.classify(OLD, edited(eval__every_steps=7, seed=1)).of_validation()


# The best validation


def best_of(metric: str, *values: float) -> Best:
    best = Best(metric)
    for step, value in enumerate(values, start=1):
        best.add(step, "pretrain", {f"eval/{metric}": value, "eval/paper/mse": -step})
    return best


@pytest.mark.parametrize(
    ("metric", "values", "step"),
    [
        ("paper/psnr", (20.0, 22.0, 21.0), 2),
        ("full/ssim", (0.5, 0.4), 1),
        ("rgb/mse", (30.0, 10.0, 20.0), 2),
        ("paper/psnr", (20.0, math.nan, 20.0, 19.0), 1),  # NaN never, of equals the first
        ("paper/psnr", (math.nan, 19.0), 2),
        ("paper/psnr", (19.0, math.inf), 2),
    ],
)
def test_the_best(metric, values, step):
    best = best_of(metric, *values)
    assert best.of("pretrain") == (step, "pretrain", values[step - 1])
    assert best.of("gan") is None


def test_nothing_is_best_by_no_metric_or_nan():
    nothing = Best("")
    nothing.add(1, "pretrain", {"eval/paper/psnr": 20.0})
    assert nothing.of("pretrain") is None
    assert nothing.among([1], 1) == set()
    assert best_of("paper/psnr", math.nan).of("pretrain") is None


def test_the_best_is_read_back_from_the_metrics(tmp_path):
    logged = [
        {"step": 1, "phase": "pretrain", "loss": 2.0},
        {"step": 1, "phase": "pretrain", "eval/paper/psnr": 30.0},
        {"step": 2, "phase": "pretrain", "eval/paper/psnr": math.nan},
        {"step": 3, "phase": "pretrain", "eval/paper/psnr": 20.1},
        {"step": 4, "phase": "gan", "eval/paper/psnr": 19.0},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in logged))
    best = Best("paper/psnr")
    best.read(file, since=0)
    assert [best.of(phase) for phase in config.PHASES] == [(1, "pretrain", 30.0), (4, "gan", 19.0)]
    assert best.among([1, 2, 3, 4, 5], 1) == {1, 4}
    assert best.among([2, 3, 5], 2) == {3}
    best = Best("paper/psnr")
    best.read(file, since=1)
    assert best.of("pretrain") == (3, "pretrain", 20.1)


def resumed(path: pathlib.Path, c, found: changes.Changes) -> tuple[Record, TrainState]:
    """As training resumes: of a new run the state of step 0."""
    form = jax.eval_shape(lambda: stopped(0, None))
    return continuing.resume(
        c,
        workdir.Workdir(path),
        recipes.make_phases(c, [20, 20], None, {}),
        stopped(0, None),
        lambda discriminator: form,
        origin="pictures",
        changes=found,
        allow_changes=False,
    )


@pytest.mark.parametrize(
    ("values", "devices", "best", "since"),
    [
        ({"log__every_steps": 7, "data__cache": "none"}, None, 3, 0),
        ({"eval__every_steps": 12}, None, None, 3),
        ({"parallel": "pmap"}, None, None, 3),
        ({"optim__sharded": True}, None, None, 3),
        ({"steps_per_dispatch": 2}, None, None, 3),
        ({"data__placement": "host"}, None, None, 3),
        ({"optim__learning_rate": 1e-3}, None, None, 3),
        ({}, "4 x another", None, 3),
    ],
    ids=str,
)
def test_a_best_generator_of_steps_that_may_not_come_again(
    tmp_path, monkeypatch, values, devices, best, since
):
    """The run lost step 4, and its validation, which was the best, when it was stopped."""
    old = edited()
    record, _ = resumed(tmp_path, old, changes.Changes())
    record.checkpoints.save(3, stopped(3, None))
    for step, value in ((3, 20.0), (4, 25.0)):
        record.monitor.metrics(step, "pretrain", {"eval/paper/psnr": value})
    record.checkpoints.close()
    record.monitor.close()
    export = tmp_path / "srresnet_best.safetensors"
    generator = Generator(blocks=1, channels=4)
    variables = init_variables(generator, jax.random.key(0), (1, 4, 4, 3))
    weights.save_generator(export, generator, variables, {"step": 4})

    if devices:
        monkeypatch.setattr(workdir, "device_names", lambda: devices)
    new = edited(**values)
    found = changes.classify(config.to_json(old), new)
    record, state = resumed(tmp_path, new, found)
    record.checkpoints.close()
    record.monitor.close()
    assert int(state.step) == 3
    held = record.best.of("pretrain")
    assert (held and held.step) == best
    assert workdir.Workdir(tmp_path).starts()[-1]["validations_since"] == since


# Lengths


def stopped(step: int, started: int | None) -> TrainState:
    """A state of small arrays in the GAN phase since `started`, or, None, in pre-training."""
    tx = optax.adam(optax.constant_schedule(1e-3))
    variables = Variables({"w": np.ones(3, np.float32)}, {})
    state = start_pretraining(variables, tx, ema=False)
    if started is not None:
        state = start_gan(state, tx, variables, tx)
        opt_state = state.generator.opt_state
        for _ in range(step - started):
            _, opt_state = tx.update(variables.params, opt_state)
        state = state.replace(generator=state.generator.replace(opt_state=opt_state))
    return state.replace(step=np.int32(step))


@pytest.mark.parametrize(
    ("lengths", "at", "said"),
    [
        ((5, 4), (5, None), None),
        ((4, 4), (5, None), "config.pretrain has 4 steps, but 5 are done"),
        ((5, 4), (7, 5), None),
        ((5, 2), (7, 5), None),
        ((5, 1), (7, 5), "config.gan has 1 steps, but 2 are done"),
        ((6, 9), (7, 5), "give --config.pretrain.steps=5"),
        ((4, 9), (7, 5), "give --config.pretrain.steps=5"),
    ],
)
def test_phases_are_no_shorter_than_what_is_done(lengths, at, said):
    phases = recipes.make_phases(edited(), list(lengths), None, {})
    state = stopped(*at)
    if said is None:
        recipes.check_lengths(phases, state)
    else:
        with pytest.raises(UserError, match="--workdir") as error:
            recipes.check_lengths(phases, state)
        assert said in str(error.value)


# Determinism


@pytest.mark.parametrize(
    ("given", "after"),
    [
        (None, "--xla_gpu_deterministic_ops=true"),
        ("--xla_a=1  --xla_b=false", "--xla_a=1 --xla_b=false --xla_gpu_deterministic_ops=true"),
        ("--xla_gpu_deterministic_ops", "--xla_gpu_deterministic_ops"),
        ("--xla_gpu_deterministic_ops=true --xla_b", "--xla_gpu_deterministic_ops=true --xla_b"),
    ],
)
def test_the_flag_is_added_where_it_is_not_there(monkeypatch, given, after):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    deterministic.request()
    assert workdir.environment()["xla_flags"] == after


@pytest.mark.parametrize(
    "given",
    [
        "--xla_a=1 --xla_gpu_deterministic_ops=false",
        "--xla_gpu_deterministic_ops --xla_gpu_deterministic_ops=0",
        "flags.txt",
    ],
)
def test_flags_that_say_otherwise_are_refused(monkeypatch, given):
    monkeypatch.setenv("XLA_FLAGS", given)
    with pytest.raises(UserError, match=r"config\.deterministic=True.*XLA_FLAGS"):
        deterministic.request()
