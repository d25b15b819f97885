"""SRGAN (Ledig et al. 2017, arXiv 1609.04802) in JAX and Flax."""

__version__ = "0.1.0"
