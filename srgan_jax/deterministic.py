"""Bitwise repeatability on GPUs, asked for before JAX starts its backend."""

import os

from srgan_jax.errors import UserError

# Also turns off autotuning, which may choose other kernels the next time.
FLAG = "--xla_gpu_deterministic_ops"
COST = (
    "deterministic: XLA neither tunes its kernels to this GPU nor takes any that add up in"
    " changing order; slower, by how much was not measured yet"
)


def request() -> None:
    """Add `FLAG` to XLA_FLAGS. CPUs and TPUs repeat their bits anyway and don't read it.

    Raises: UserError where XLA_FLAGS says otherwise.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    given = [flag for flag in flags if flag.partition("=")[0] == FLAG]
    if given and given[-1].partition("=")[2].lower() in ("false", "0"):
        raise UserError(
            f"config.deterministic=True, but XLA_FLAGS holds {given[-1]}: take one of them away"
        )
    if flags and not flags[0].startswith("-"):  # XLA then reads a file of that name
        raise UserError(
            f"config.deterministic=True cannot add {FLAG} to XLA_FLAGS={flags[0]}, which is the"
            " name of a file: give the flags in it themselves"
        )
    if not given:
        os.environ["XLA_FLAGS"] = " ".join([*flags, f"{FLAG}=true"])
