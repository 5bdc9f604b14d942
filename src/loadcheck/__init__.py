"""Predict, measure and judge every memory figure of a 4-bit load with Unsloth and vLLM."""

__version__ = "0.1.0"
