"""Weights in from other formats."""
