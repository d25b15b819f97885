"""The paper's tables anew: train, measure, document; `python -m srgan_jax.reproduce`."""
