"""The adapters' initial weights, drawn in another thread while vLLM loads: 1 s of one core for Llama 3.1 8B at rank 32.

What peft draws depends only on the seed and the order of the layers, and torch draws the same sequence from any generator. So our own
generator draws the same numbers, and torch's generator is advanced to where it would be after each. Where peft asks for something
unexpected, it draws for itself.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from loadcheck.specs.profile import Adapters
from loadcheck.specs.shape import ModelConfig

SLOPE = math.sqrt(5)  # torch/nn/modules/linear.py:114, peft/tuners/lora/layer.py:171


def init_shapes(config: ModelConfig, adapters: Adapters) -> list[tuple[int, int]]:
    """The shapes that peft 0.14.0 draws, in order: A and B as torch linears, then A once more (peft/tuners/lora/layer.py:118-119, 171)."""
    layer = []
    for name, (size_in, size_out) in config.linears.items():
        if name in adapters.target_modules:
            layer += [(adapters.r, size_in), (size_out, adapters.r), (adapters.r, size_in)]
    return layer * config.num_hidden_layers


@dataclass(frozen=True, slots=True)
class Draw:
    """A weight, and the state of torch's generator before and after it was drawn."""

    before: Any
    weight: Any
    after: Any

    def is_next(self, tensor: Any, state: Any) -> bool:
        """Whether torch, in this state, would draw the same values for this tensor."""
        alike = tensor.shape == self.weight.shape and tensor.dtype == self.weight.dtype
        return bool(alike and tensor.device == self.weight.device and self.before.equal(state))


class AdapterInit(threading.Thread):
    """Draws the weights that peft is going to draw; `replay` hands them to peft."""

    def __init__(self, seed: int, sizes: list[tuple[int, int]]) -> None:
        super().__init__(daemon=True)
        self._seed = seed
        self._sizes = sizes
        self._draws: deque[Draw] = deque()

    def begin(self) -> None:
        """Start drawing, once; later calls have no effect."""
        if self.ident is None:
            self.start()

    def run(self) -> None:
        with suppress(Exception):  # peft draws what is missing, and reports the error
            self._draw()

    def _draw(self) -> None:
        import torch
        from torch.nn import init

        generator = torch.Generator()
        generator.manual_seed(self._seed)
        after = generator.get_state()
        for size in self._sizes:
            before, weight = (
                after,
                torch.empty(size, dtype=torch.float32),
            )  # while vLLM loads, the default is the model's type
            init.kaiming_uniform_(weight, a=SLOPE, generator=generator)
            after = generator.get_state()
            self._draws.append(Draw(before, weight, after))

    @contextmanager
    def replay(self) -> Iterator[None]:
        """In this block `kaiming_uniform_` returns a drawn weight where torch would draw the same; waits until all are drawn."""
        import torch
        from torch.nn import init

        if self.ident is not None:
            self.join()
        draw = init.kaiming_uniform_

        def take(tensor: Any, *arguments: Any, **named: Any) -> Any:
            plain = not arguments and named == {"a": SLOPE}
            if not plain or not self._draws or not self._draws[0].is_next(tensor, torch.get_rng_state()):
                return draw(tensor, *arguments, **named)
            drawn = self._draws.popleft()
            torch.set_rng_state(drawn.after)
            tensor.data = drawn.weight
            return tensor

        init.kaiming_uniform_ = take
        try:
            yield
        finally:
            init.kaiming_uniform_ = draw
            self._draws.clear()
