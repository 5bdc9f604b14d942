"""Torch's autograd, as far as memory goes: which tensors a node keeps, and when the engine lets go of them.

torch 2.5.1: torch/csrc/autograd/engine.cpp (evaluate_function, call_function, validate_outputs),
functions/accumulate_grad.h, input_buffer.cpp.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Label, Ledger, Storage

HALF, FULL, INDEX = 2, 4, 8
"""Bytes of an element: bfloat16 or float16, float32, int64."""

WORKSPACE = Label(
    "cuBLAS workspaces", "torch 2.5.1 aten/src/ATen/cuda/CublasHandlePool.cpp: one for each thread", "weights"
)
GRADIENTS = Label(
    "gradients of the adapters", "torch/csrc/autograd/functions/accumulate_grad.h: fp32, as the adapters", "gradients"
)
CAST_GRADIENT = Label("gradient, cast to fp32", "torch/csrc/autograd/engine.cpp: validate_outputs", "gradients")


@dataclass(slots=True)
class Tensor:
    """A tensor without values; views share the storage.

    Attributes:
        num_elements: of this view.
        item_bytes: of one element.
        node: what made it, where a gradient is to flow back; None otherwise.
        output: which of the node's outputs it is.
        transposed: whether it is laid out column by column.
    """

    storage: Storage
    num_elements: int
    item_bytes: int = HALF
    node: Node | None = None
    output: int = 0
    transposed: bool = False


Gradients = Sequence["Tensor | None"]
Run = Callable[["Tape", tuple["Tensor", ...], Gradients], Gradients]


@dataclass(slots=True, eq=False)
class Node:
    """One function of the backward pass.

    Attributes:
        run: gives the gradients of the inputs from those of the outputs.
        edges: the node and the output number that each input comes from; None for one that needs no gradient.
        saved: what it keeps until it has run.
        held: what it keeps for as long as it lives, as attributes.
    """

    run: Run
    edges: tuple[tuple[Node, int] | None, ...]
    saved: tuple[Tensor, ...]
    order: float
    num_outputs: int = 1
    item_bytes: int = HALF
    held: tuple[Tensor, ...] = ()


@dataclass(slots=True, eq=False)
class Leaf:
    """A tensor that gradients are kept for: a LoRA weight, or the input of a checkpointed layer."""

    tensor: Tensor
    label: Label
    gradient: Tensor | None = None


@dataclass(slots=True)
class Tape:
    """Where a step is recorded.

    Attributes:
        recording: whether a backward pass will follow (torch.is_grad_enabled).
        casts: autocast's copies of weights by the weight's id; None outside of autocast.
        workspace_bytes: what cuBLAS takes at the first product of a thread.
        workspaces: by the thread: the main one, and the one that backward passes run on.
    """

    ledger: Ledger
    workspace_bytes: int = 0
    workspaces: dict[str, Storage | None] = field(default_factory=dict)
    recording: bool = True
    casts: dict[int, Tensor] | None = None
    _thread: str = "main"
    _orders: count[int] = field(default_factory=count)

    def tensor(self, num_elements: int, label: Label, item_bytes: int = HALF) -> Tensor:
        """A new tensor of so many elements."""
        return Tensor(self.ledger.take(num_elements * item_bytes, label), num_elements, item_bytes)

    def product(self, num_elements: int, label: Label) -> Tensor:
        """The output of a matrix product by cuBLAS, which has a workspace for each thread (CublasHandlePool.cpp)."""
        out = self.tensor(num_elements, label)
        if self._thread not in self.workspaces:
            self.workspaces[self._thread] = self.ledger.take(self.workspace_bytes, WORKSPACE)
        return out

    def record(
        self, inputs: Sequence[Tensor], run: Run, saved: Sequence[Tensor] = (), num_outputs: int = 1
    ) -> Node | None:
        """The node of a function on `inputs`; None where no gradient is wanted."""
        if not self.recording or all(each.node is None for each in inputs):
            return None
        edges = tuple(None if each.node is None else (each.node, each.output) for each in inputs)
        kept = tuple(detached(each) for each in saved)
        return Node(run, edges, kept, next(self._orders), num_outputs)

    def leaf(self, tensor: Tensor, label: Label = GRADIENTS) -> Leaf:
        """Make `tensor` one that gradients are kept for."""
        leaf = Leaf(detached(tensor), label)
        tensor.node = Node(_accumulate(leaf), (), (), float("inf"), item_bytes=tensor.item_bytes)
        return leaf

    def backward(self, root: Tensor, gradient: Tensor) -> None:
        """Run every node that `root` comes from, the newest first (torch::autograd::Engine::execute)."""
        assert root.node is not None
        before = self.recording, self._thread
        self.recording, self._thread = False, "autograd"
        _Engine(self, root.node, gradient).run()
        self.recording, self._thread = before


def hand_on(_tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
    """Of a function whose gradient is the gradient of its output."""
    return [gradients[0]]


def to_both(_tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
    """Of a sum: each of its two gets the gradient of its output."""
    return [gradients[0], gradients[0]]


def detached(tensor: Tensor) -> Tensor:
    """The same storage without its history."""
    return Tensor(tensor.storage, tensor.num_elements, tensor.item_bytes, transposed=tensor.transposed)


def _accumulate(leaf: Leaf) -> Run:
    """AccumulateGrad: takes the first gradient over, or clones it where it is laid out otherwise; adds later ones in place."""

    def run(tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
        (gradient,) = gradients
        assert gradient is not None
        if leaf.gradient is None:
            same = not gradient.transposed
            leaf.gradient = gradient if same else tape.tensor(gradient.num_elements, leaf.label, gradient.item_bytes)
        return ()

    return run


class _Engine:
    """One run of the backward pass over the graph that ends in a node."""

    def __init__(self, tape: Tape, root: Node, gradient: Tensor) -> None:
        self._tape = tape
        self._waiting: dict[Node, int] = {}
        self._count_dependencies(root)
        self._buffers: dict[Node, list[Tensor | None]] = {root: [gradient]}
        self._ready: list[tuple[float, int, Node]] = []
        self._pushed = count()
        self._push(root)

    def _count_dependencies(self, root: Node) -> None:
        seen, stack = {root}, [root]
        while stack:
            for edge in stack.pop().edges:
                if edge is None:
                    continue
                node = edge[0]
                self._waiting[node] = self._waiting.get(node, 0) + 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)

    def _push(self, node: Node) -> None:
        heapq.heappush(self._ready, (-node.order, next(self._pushed), node))

    def run(self) -> None:
        while self._ready:
            node = heapq.heappop(self._ready)[2]
            outputs = self._call(node)
            node.saved = ()
            for number, edge in enumerate(node.edges):
                if edge is not None:
                    self._pass_on(edge, outputs[number])
                outputs[number] = None

    def _call(self, node: Node) -> list[Tensor | None]:
        """The gradients of a node's inputs, each in the type of the input; the node's own are held until then."""
        gradients = self._buffers.pop(node)
        outputs = list(node.run(self._tape, node.saved, gradients))
        for number, edge in enumerate(node.edges):
            output = outputs[number]
            if edge is not None and output is not None and output.item_bytes != edge[0].item_bytes:
                cast = self._tape.tensor(output.num_elements, CAST_GRADIENT, edge[0].item_bytes)
                cast.transposed = output.transposed
                outputs[number] = cast
        return outputs

    def _pass_on(self, edge: tuple[Node, int], gradient: Tensor | None) -> None:
        """Put a gradient into the buffer of the node it is for (input_buffer.cpp: accumulate).

        Two for one input are added into one that nothing else refers to. That is the newer one wherever it matters: the older may be
        the gradient that came in, which its caller still holds.
        """
        node, number = edge
        self._buffers.setdefault(node, [None] * node.num_outputs)[number] = gradient
        self._waiting[node] -= 1
        if not self._waiting[node]:
            self._push(node)
