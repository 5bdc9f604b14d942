"""From a model's shape, a card and the settings alone: every figure that the load log will print. The formulas are the stacks'."""

from loadcheck.predict.account import MemoryAccount, Obstacle, Prediction
from loadcheck.predict.card import Card, card_from_device, card_from_table
from loadcheck.predict.case import Case

__all__ = ["Card", "Case", "MemoryAccount", "Obstacle", "Prediction", "card_from_device", "card_from_table"]
