"""What all tests share: eight CPU devices, strict ranks, and where the data is."""

import pathlib

import jax
import numpy as np
import pytest

# Before the backend starts.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


# Minutes each: begun first, so that one of the two that run at a time does not wait for the other.
LONGEST = (
    "test_train",
    "test_survival",
    "test_processes",
    "test_steps",
    "test_parallel",
    "test_main",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""

    def rank(item: pytest.Item) -> int:
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository."""
    return pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared(root) -> pathlib.Path:
    """The folder of benchmark pictures and weights beside the repository."""
    folder = root.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: benchmark pictures and weights")
    return folder


@pytest.fixture(scope="module")
def quick_compile():
    """Compiling takes less than half the time, and what is compiled runs slower."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def noise():
    """`noise(height, width)`: a random picture, uint8 [H, W, C], the same for the same call."""

    def make(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng([seed, height, width, channels])
        return rng.integers(0, 256, (height, width, channels), np.uint8)

    return make
