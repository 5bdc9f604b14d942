"""Predicts every figure of the load log from a model's shape, a card and the settings. The stacks have the formulas."""

from loadcheck.predict.account import MemoryAccount, Obstacle, Prediction
from loadcheck.predict.card import Card, card_from_device, card_from_table
from loadcheck.predict.case import Case

__all__ = ["Card", "Case", "MemoryAccount", "Obstacle", "Prediction", "card_from_device", "card_from_table"]
