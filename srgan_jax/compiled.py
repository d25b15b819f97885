"""What JAX compiles, kept on disk for the next process."""

import contextlib
import hashlib
import pathlib
import platform

from srgan_jax import files


def keep() -> None:
    """Let JAX keep what it compiles, for the next time, by the kind of processor."""
    import jax

    folder = files.cache_folder() / "compiled" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _processor() -> str:
    """A name for what programs are compiled for: XLA's of other CPUs may not run on this one."""
    described = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        described += "".join(sorted({line for line in text.splitlines() if "flags" in line}))
    return hashlib.sha256(described.encode()).hexdigest()[:16]
