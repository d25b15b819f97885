"""Checkpoints: bit-equal round trips, pruning, and what happens to damaged ones."""

import errno
import functools
import gc
import json
import pathlib
import shutil

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from srgan_jax.best import Best
from srgan_jax.checkpoint import Checkpoints, digest
from srgan_jax.errors import UserError
from srgan_jax.models.discriminator import Discriminator
from srgan_jax.models.generator import Generator
from srgan_jax.parallel import Parallel
from srgan_jax.state import TrainState, init_variables, start_gan, start_pretraining

# What Orbax was about to read when it met damage ends as exceptions that nobody fetched.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TX = optax.adam(1e-3)


@pytest.fixture(autouse=True)
def collect_what_orbax_left():
    """Here, where it is expected, and not during some later test."""
    yield
    gc.collect()


def randomised(state: TrainState, step: int) -> TrainState:
    """Every leaf different, so that one that is lost or exchanged is seen."""
    rng = np.random.default_rng(step)
    state = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), state)
    return state.replace(step=np.int32(step))


@pytest.fixture(scope="module")
def forms():
    """The abstract state of each phase, without and with a moving average, by name."""

    def pretrain(ema: bool, channels: int = 8) -> TrainState:
        generator = Generator(blocks=1, channels=channels)
        variables = init_variables(generator, jax.random.key(0), (1, 4, 4, 3))
        return start_pretraining(variables, TX, ema=ema)

    def gan(ema: bool) -> TrainState:
        discriminator = Discriminator(channels=4, dense=8)
        variables = init_variables(discriminator, jax.random.key(1), (1, 16, 16, 3))
        return start_gan(pretrain(ema), TX, variables, TX)

    return {
        name + (" with average" if ema else ""): jax.eval_shape(functools.partial(make, ema))
        for name, make in (("pretrain", pretrain), ("gan", gan))
        for ema in (False, True)
    } | {"other channels": jax.eval_shape(functools.partial(pretrain, False, 4))}


@pytest.fixture
def small(forms):
    """A state of pre-training: `small(step)`."""
    return lambda step: randomised(forms["pretrain"], step)


def template(state: TrainState):
    """What `restore_latest` asks for: the abstract state of any step."""
    form = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return lambda step: form


def saved(folder: pathlib.Path, states: list[TrainState], keep=5, run="") -> pathlib.Path:
    """A closed run with these checkpoints, each at the step that its state says."""
    checkpoints = Checkpoints(folder / "checkpoints", keep=keep, run=run)
    for state in states:
        checkpoints.save(int(state.step), state)
    checkpoints.close()
    return folder / "checkpoints"


def restore(folder: pathlib.Path, state: TrainState) -> TrainState | None:
    checkpoints = Checkpoints(folder, keep=5)
    try:
        return checkpoints.restore_latest(template(state))
    finally:
        checkpoints.close()


def assert_equal(a: TrainState, b: TrainState) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


def steps(folder: pathlib.Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("name", ["pretrain", "gan", "pretrain with average", "gan with average"])
def test_round_trip_from_eight_devices_to_one_and_back(forms, name, tmp_path):
    eight, one = Parallel("jit", shard_optimizer=True), Parallel("jit", jax.devices()[:1])
    assert len(eight.devices) == 8
    original = randomised(forms[name], 3)
    for i, (before, after) in enumerate([(eight, one), (one, eight)]):
        folder = saved(tmp_path / str(i), [before.to_host(before.place_state(original))])
        checkpoints = Checkpoints(folder, keep=1)
        assert checkpoints.latest_step() == 3
        found = checkpoints.restore_latest(template(original))
        checkpoints.close()
        assert_equal(found, original)
        assert_equal(after.place_state(found), original)


def test_special_numbers_come_back_bit_equal(small, tmp_path):
    state = jax.device_get(small(1))
    kernel = np.array(state.generator.variables.params["conv_in"]["kernel"])
    kernel.flat[:5] = [-0.0, 1e-45, np.inf, np.nan, np.finfo(np.float32).max]
    state.generator.variables.params["conv_in"]["kernel"] = kernel
    assert_equal(restore(saved(tmp_path, [state]), state), state)


def test_saving_copies_at_once(small, tmp_path):
    """The next step takes over the state's buffers while the files are being written."""
    state = small(1)
    expected = jax.tree.map(np.array, state)
    step = jax.jit(lambda state: jax.tree.map(lambda x: 0 * x, state), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, state)
    jax.block_until_ready(step(state))
    checkpoints.close()
    assert_equal(restore(tmp_path / "checkpoints", expected), expected)


def test_nothing_saved(small, tmp_path):
    assert restore(tmp_path / "checkpoints", small(0)) is None


def test_only_the_latest_are_kept(small, tmp_path):
    folder = saved(tmp_path, [small(step) for step in (1, 2, 3, 10, 11)], keep=2)
    assert steps(folder) == {"10", "11"}
    assert_equal(restore(folder, small(0)), jax.device_get(small(11)))


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ({}, {7, 8}),
        ({"keep_every": 3}, {3, 6, 7, 8}),
        ({"best": lambda steps: {1, 5}}, {1, 5, 7, 8}),
        ({"best": lambda steps: set(steps[:1]), "keep_every": 4}, {1, 4, 7, 8}),
    ],
    ids=["latest", "every third", "chosen", "all three"],
)
def test_what_stays(policy, left, small, tmp_path):
    for start in (1, 5):  # also what an earlier process saved
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2, **policy)
        for step in range(start, start + 4):
            checkpoints.save(step, small(step))
        checkpoints.close()
    assert steps(tmp_path / "checkpoints") == {str(step) for step in left}


def test_the_best_that_stay_are_of_each_phase_and_were_validated(small, tmp_path):
    """Values rise and fall; there is none for half of the steps, and one is NaN."""
    best = Best("paper/psnr")
    checkpoints = Checkpoints(
        tmp_path / "checkpoints", keep=1, best=lambda steps: best.among(steps, 2)
    )
    values = {2: 20.0, 4: 25.0, 6: float("nan"), 8: 24.0, 12: 9.0, 14: 7.0, 16: 8.0}
    for step in range(1, 20):
        if step in values:
            phase = "pretrain" if step < 10 else "gan"
            best.add(step, phase, {"eval/paper/psnr": values[step]})
        checkpoints.save(step, small(step))
    checkpoints.close()
    assert steps(tmp_path / "checkpoints") == {"4", "8", "12", "16", "19"}


def largest(folder: pathlib.Path) -> pathlib.Path:
    """The file with the arrays."""
    files = (file for file in folder.rglob("*") if file.is_file() and "state" in file.parts)
    return max((f for f in files if f.name != "_METADATA"), key=lambda file: file.stat().st_size)


def flip_bit(checkpoint):
    file = largest(checkpoint)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def truncate(checkpoint):
    file = largest(checkpoint)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zero(checkpoint):
    file = largest(checkpoint)
    file.write_bytes(bytes(file.stat().st_size))


def exchange(checkpoint):
    """Whole and well-formed, but not what was saved: only the digest tells."""
    shutil.rmtree(checkpoint / "state")
    shutil.copytree(checkpoint.parent / "1" / "state", checkpoint / "state")


def meta_file(checkpoint):
    return checkpoint / "meta" / "metadata"


def other_letter(checkpoint):
    """What a flipped bit makes of it is JSON all the same."""
    file = meta_file(checkpoint)
    meta = file.read_text()
    assert '"origin"' in meta
    file.write_text(meta.replace('"origin": "', '"origin": "x'))


DAMAGES = {
    "bit flip": flip_bit,
    "truncated": truncate,
    "zeros": zero,
    "file missing": lambda checkpoint: largest(checkpoint).unlink(),
    "arrays missing": lambda checkpoint: shutil.rmtree(checkpoint / "state"),
    "tree description empty": lambda checkpoint: (checkpoint / "state/_METADATA").write_text(""),
    "arrays of another step": exchange,
    "digest cut": lambda checkpoint: meta_file(checkpoint).write_text('{"sha256": "ab'),
    "digest absent": lambda checkpoint: meta_file(checkpoint).write_text("{}"),
    "origin another": other_letter,
    "discriminator another": lambda checkpoint: meta_file(checkpoint).write_text(
        json.dumps(json.loads(meta_file(checkpoint).read_text()) | {"discriminator": True})
    ),
    "digest missing": lambda checkpoint: shutil.rmtree(checkpoint / "meta"),
    "empty": lambda checkpoint: [
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink() for entry in checkpoint.iterdir()
    ],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_newest_is_set_aside_and_the_one_before_used(damage, small, tmp_path, caplog):
    folder = saved(tmp_path, [small(1), small(2), small(3)])
    damage(folder / "3")
    assert_equal(restore(folder, small(0)), jax.device_get(small(2)))
    assert steps(folder) == {"1", "2"}
    assert steps(tmp_path / "damaged") == {"3"}
    assert "checkpoint 3 is damaged" in caplog.text
    assert str(tmp_path / "damaged" / "3") in caplog.text


def wrapped(error: Exception) -> Exception:
    """As libraries pass on what they met."""
    try:
        raise ValueError("cannot be restored") from error
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        ValueError("PERMISSION_DENIED: Error opening file"),
        ValueError("UNKNOWN: Error reading [OS error 116: ESTALE Stale file handle]"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        wrapped(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
    ids=str,
)
def test_where_the_machine_fails_nothing_is_set_aside(error, small, tmp_path, monkeypatch):
    folder = saved(tmp_path, [small(1), small(2)])

    def fail(manager, step, args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", fail)
        with pytest.raises(UserError, match=r"step 2 cannot be read now .*run the same") as raised:
            restore(folder, small(0))
    assert "\n" not in str(raised.value)
    assert steps(folder) == {"1", "2"}
    assert not (tmp_path / "damaged").exists()
    assert_equal(restore(folder, small(0)), jax.device_get(small(2)))


def test_saving_goes_on_after_damage_also_at_the_same_step(small, tmp_path):
    folder = saved(tmp_path, [small(1), small(2)])
    flip_bit(folder / "2")
    checkpoints = Checkpoints(folder, keep=5)
    assert_equal(checkpoints.restore_latest(template(small(0))), jax.device_get(small(1)))
    again = randomised(small(0), 2)
    checkpoints.save(2, again)
    checkpoints.close()
    assert_equal(restore(folder, small(0)), jax.device_get(again))

    flip_bit(folder / "2")
    assert_equal(restore(folder, small(0)), jax.device_get(small(1)))
    assert steps(tmp_path / "damaged") == {"2", "2.1"}


def test_every_checkpoint_damaged(small, tmp_path):
    folder = saved(tmp_path, [small(1), small(2)])
    for step in "12":
        flip_bit(folder / step)
    with pytest.raises(UserError, match="every checkpoint is damaged") as error:
        restore(folder, small(0))
    assert str(tmp_path / "damaged") in str(error.value)
    assert steps(tmp_path / "damaged") == {"1", "2"}  # set aside, not lost


def test_an_unfinished_save_is_not_a_checkpoint(small, tmp_path, caplog):
    """What a killed process leaves: Orbax writes under another name and renames."""
    folder = saved(tmp_path, [small(1), small(2)])
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")
    assert_equal(restore(folder, small(0)), jax.device_get(small(1)))
    assert "removed the unfinished save of step 2" in caplog.text
    assert steps(folder) == {"1"}
    assert not (tmp_path / "damaged").exists()


def of_another_program(checkpoint):
    """Orbax's, with what it calls an item, and a metric."""
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"])
    with ocp.CheckpointManager(checkpoint.parent, options=options) as manager:
        tree = {"w": np.zeros(3)}
        step = int(checkpoint.name)
        manager.save(step, args=ocp.args.StandardSave(tree), metrics={"loss": 1.0})
    (checkpoint / "metrics" / "metrics").write_text("{")  # and damaged, too


def of_another_step(checkpoint):
    shutil.copytree(checkpoint.parent / "1", checkpoint)


FOREIGN = {
    "another program's": of_another_program,
    "of another step": of_another_step,
    "pictures": lambda checkpoint: (checkpoint.mkdir(), (checkpoint / "0.png").write_text("")),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_no_checkpoint_of_ours_is_set_aside(make, small, tmp_path, caplog):
    folder = saved(tmp_path, [small(1), small(2)])
    make(folder / "7")
    before = {file.name for file in (folder / "7").rglob("*")}
    assert_equal(restore(folder, small(0)), jax.device_get(small(2)))
    assert steps(folder) == {"1", "2"}
    assert steps(tmp_path / "damaged") == {"7"}
    assert {file.name for file in (tmp_path / "damaged" / "7").rglob("*")} == before
    assert "checkpoint 7 is damaged, or not of this run" in caplog.text


@pytest.mark.parametrize("name", ["pretrain with average", "other channels"])
def test_a_checkpoint_of_another_architecture_is_set_aside(forms, name, small, tmp_path, caplog):
    folder = saved(tmp_path, [small(1)])
    saved(tmp_path, [randomised(forms[name], 2)])
    assert_equal(restore(folder, small(0)), jax.device_get(small(1)))
    assert steps(tmp_path / "damaged") == {"2"}
    assert "checkpoint 2 is damaged, or not of this run" in caplog.text


def test_a_checkpoint_of_another_run_is_set_aside(small, tmp_path, caplog):
    """Of the same config and pictures, with another seed: only the run's id tells."""
    saved(tmp_path, [small(1), small(2)], run="this")
    folder = saved(tmp_path, [small(3)], run="other")
    checkpoints = Checkpoints(folder, keep=5, run="this", origin="others")
    with pytest.raises(UserError, match="--allow_changes"):  # of this one's own
        checkpoints.restore_latest(template(small(0)))
    checkpoints.close()
    assert "checkpoint 3 is damaged, or not of this run (it is another run's)" in caplog.text
    assert steps(folder) == {"1", "2"}
    assert steps(tmp_path / "damaged") == {"3"}


def test_another_origin_is_refused_unless_any_will_do(small, tmp_path):
    folder = saved(tmp_path, [small(1)])
    refusing = Checkpoints(folder, keep=5, origin="others")
    with pytest.raises(UserError, match="--allow_changes"):
        refusing.restore_latest(template(small(0)))
    refusing.close()
    accepting = Checkpoints(folder, keep=5, origin="others", any_origin=True)
    assert_equal(accepting.restore_latest(template(small(0))), jax.device_get(small(1)))
    assert accepting.other_origin
    accepting.close()
    assert steps(folder) == {"1"}


def test_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1)


def test_digest_sees_every_leaf_and_bit(forms):
    host = jax.device_get(randomised(forms["gan"], 1))
    before = digest(host)
    leaves, tree = jax.tree.flatten(host)
    for i, leaf in enumerate(leaves):
        changed = np.array(leaf)
        changed.reshape(-1).view(np.uint8)[-1] ^= 1
        assert digest(tree.unflatten([*leaves[:i], changed, *leaves[i + 1 :]])) != before
    assert digest(host) == before
