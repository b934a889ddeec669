"""Callbacks, a file for what belongs together. Their public name is `minicnn.callbacks`."""
