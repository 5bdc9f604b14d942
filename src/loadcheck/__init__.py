"""Predict, measure and judge every memory figure of a 4-bit load with Unsloth and vLLM.

The library is `loadcheck.api` (predict, fit, parse_log, judge, compare); the command is `loadcheck`.
"""

__all__ = ["__version__"]
__version__ = "0.1.0"
