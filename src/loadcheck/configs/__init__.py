"""Configs that people already have, read as ours: unsloth's, axolotl's, LLaMA-Factory's and TRL's YAML."""

from __future__ import annotations

from loadcheck.configs.reading import Config, read_config

__all__ = ["Config", "read_config"]
