"""From a model's shape, a GPU and the settings alone: every figure that the load log will print."""

from loadcheck.predict.card import Card, card_from_device, card_from_table
from loadcheck.predict.prediction import Prediction, predict
from loadcheck.predict.refusals import Obstacle

__all__ = ["Card", "Obstacle", "Prediction", "card_from_device", "card_from_table", "predict"]
