"""Pictures to super-resolved pictures to numbers; `python -m srgan_jax.evaluate` is the command."""
