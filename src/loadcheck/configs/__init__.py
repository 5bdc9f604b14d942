"""Reads the YAML configs of other tools as our settings: unsloth's, axolotl's, LLaMA-Factory's and TRL's."""

from __future__ import annotations

from loadcheck.configs.reading import Config, read_config

__all__ = ["Config", "read_config"]
