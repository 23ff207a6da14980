"""Exponential moving averages: of tensors, of a model's weights, and the arithmetic around them.

>>> import onepass
>>> beta = onepass.ema.beta_for_window(10)
>>> average = 0.0
>>> for step in (1, 2):  # of ones, from zero
...     average = beta * average + (1 - beta) * 1.0
...     print(f"{average:.2f} {onepass.ema.bias_corrected(average, beta, step):.2f}")
0.10 1.00
0.19 1.00
"""

from .arithmetic import beta_for_window, bias_corrected, update_, weight, window
from .average import EMA

__all__ = ["EMA", "beta_for_window", "bias_corrected", "update_", "weight", "window"]
