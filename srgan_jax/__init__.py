"""SRGAN (Ledig et al. 2017, arXiv 1609.04802) in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srgan_jax.upscale.upscaler import Upscaler

__all__ = ["Upscaler"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Upscaler`, imported where it is asked for: the commands' flags do without JAX."""
    if name == "Upscaler":
        from srgan_jax.upscale.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
