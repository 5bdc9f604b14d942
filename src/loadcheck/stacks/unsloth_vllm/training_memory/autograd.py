"""The memory behaviour of torch's autograd: which tensors a node saves, and when the engine releases them.

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
"""Bytes per element: bfloat16 or float16, float32, int64."""

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
        node: the function that created it, if gradients flow back through it; else None.
        output: the index among the node's outputs.
        transposed: whether it is in column-major order.
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
        run: computes the gradients of the inputs from those of the outputs.
        edges: the node and output index that each input comes from; None for an input without a gradient.
        saved: tensors that are kept until it has run.
        held: tensors that are kept as attributes for the node's lifetime.
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
    """A tensor whose gradient is kept: a LoRA weight, or the input of a checkpointed layer."""

    tensor: Tensor
    label: Label
    gradient: Tensor | None = None


@dataclass(slots=True)
class Tape:
    """Records the operations of a step.

    Attributes:
        recording: whether a backward pass will follow (torch.is_grad_enabled).
        casts: autocast's copies of weights by the weight's id; None outside of autocast.
        workspace_bytes: cuBLAS allocates this at a thread's first product.
        workspaces: by thread: the main one, and the one that runs backward passes.
    """

    ledger: Ledger
    workspace_bytes: int = 0
    workspaces: dict[str, Storage | None] = field(default_factory=dict)
    recording: bool = True
    casts: dict[int, Tensor] | None = None
    _thread: str = "main"
    _orders: count[int] = field(default_factory=count)

    def tensor(self, num_elements: int, label: Label, item_bytes: int = HALF) -> Tensor:
        """A new tensor."""
        return Tensor(self.ledger.allocate(num_elements * item_bytes, label), num_elements, item_bytes)

    def product(self, num_elements: int, label: Label) -> Tensor:
        """The output of a cuBLAS matrix product; each thread has a workspace (CublasHandlePool.cpp)."""
        out = self.tensor(num_elements, label)
        if self._thread not in self.workspaces:
            self.workspaces[self._thread] = self.ledger.allocate(self.workspace_bytes, WORKSPACE)
        return out

    def record(
        self, inputs: Sequence[Tensor], run: Run, saved: Sequence[Tensor] = (), num_outputs: int = 1
    ) -> Node | None:
        """The node of a function on `inputs`; None where no gradient is needed."""
        if not self.recording or all(tensor.node is None for tensor in inputs):
            return None
        edges = tuple(None if tensor.node is None else (tensor.node, tensor.output) for tensor in inputs)
        kept = tuple(detached(tensor) for tensor in saved)
        return Node(run, edges, kept, next(self._orders), num_outputs)

    def leaf(self, tensor: Tensor, label: Label = GRADIENTS) -> Leaf:
        """Keep gradients for `tensor`."""
        leaf = Leaf(detached(tensor), label)
        tensor.node = Node(_accumulate(leaf), (), (), float("inf"), item_bytes=tensor.item_bytes)
        return leaf

    def backward(self, root: Tensor, gradient: Tensor) -> None:
        """Run every node that `root` depends on, the newest first (torch::autograd::Engine::execute)."""
        assert root.node is not None
        before = self.recording, self._thread
        self.recording, self._thread = False, "autograd"
        _Engine(self, root.node, gradient).run()
        self.recording, self._thread = before


def pass_through(_tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
    """The backward function of an operation whose input gradient is its output gradient."""
    return [gradients[0]]


def to_both(_tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
    """The backward function of a sum: both inputs receive the output's gradient."""
    return [gradients[0], gradients[0]]


def creates(num_elements: int, label: Label, item_bytes: int = HALF) -> Run:
    """The backward function of an operation whose input gradient is a new tensor."""
    return lambda tape, _saved, _gradients: [tape.tensor(num_elements, label, item_bytes)]


def detached(tensor: Tensor) -> Tensor:
    """The same storage without its history."""
    return Tensor(tensor.storage, tensor.num_elements, tensor.item_bytes, transposed=tensor.transposed)


def _accumulate(leaf: Leaf) -> Run:
    """AccumulateGrad: stores the first gradient, or a clone if its layout differs; adds later ones in place."""

    def run(tape: Tape, _saved: tuple[Tensor, ...], gradients: Gradients) -> Gradients:
        (gradient,) = gradients
        assert gradient is not None
        if leaf.gradient is None:
            same = not gradient.transposed
            leaf.gradient = gradient if same else tape.tensor(gradient.num_elements, leaf.label, gradient.item_bytes)
        return ()

    return run


class _Engine:
    """One backward pass over the graph of a root node."""

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
        """The gradients of a node's inputs, cast to each input's dtype; the output gradients are held until then."""
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
        """Put a gradient into the buffer of its node (input_buffer.cpp: accumulate).

        Two gradients for one input are summed into one that nothing else references. Where it matters this is the newer one: the older
        may be the incoming gradient, which its caller still holds.
        """
        node, number = edge
        self._buffers.setdefault(node, [None] * node.num_outputs)[number] = gradient
        self._waiting[node] -= 1
        if not self._waiting[node]:
            self._push(node)
