"""Names that the command line offers, apart from what computes with them, which takes longer to import."""

from __future__ import annotations

OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit",
)  # fmt: skip
"""transformers' names (training_args.py:150-185) of those that are modelled; paged_adamw is paged_adamw_32bit."""
