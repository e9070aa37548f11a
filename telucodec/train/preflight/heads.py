"""One head per job: output layers that do the same work twice or none at all, and what their outputs cost.

A head is a layer whose output reaches a loss through no other layer with a kernel. Found by walking the
graph that autograd keeps, so it holds for any model.

Shapes: B batch.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from telucodec.train.diagnostics.diagnosis import Diagnosis, Evidence, diagnose
from telucodec.train.preflight.plan import is_kernel

COPIES = 3  # of an output in training: itself, what the loss makes of it (log-probabilities), its gradient
TWIN_SHARE = 0.05  # of all parameters; smaller twins (means and scales of a mixture) are no accident
GB = 1e9

Node = Any  # of autograd's graph; its type has no public name


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of a module that has a kernel of its own."""

    name: str
    n_parameters: int
    n_outputs: int  # channels
    shape: tuple[int, ...]  # of the output
    input: Tensor  # kept, so that its storage stays its own
    node: Node

    @property
    def job(self) -> tuple[int, int, int]:
        """The same for layers that could replace each other: what is read, and what is made of it."""
        return self.input.untyped_storage().data_ptr(), self.n_outputs, self.n_parameters


def output_gb(*shape: int) -> float:
    """Gigabytes that an output of ``shape`` takes in training; ``(4, 16384, 65536)`` logits take 52."""
    return 4 * COPIES * math.prod(shape) / GB


def check_heads(
    model: nn.Module, losses: Callable[[], Mapping[str, Tensor]], *, n_items: int, allowed_gb: float
) -> tuple[list[Diagnosis], list[str]]:
    """Name heads that share a job or have none, and outputs too large for the device.

    Args:
        losses: runs one item through ``model`` and returns its loss terms.
        n_items: of a batch, for the memory.
        allowed_gb: for all heads together.
    """
    with _calls_of(model) as layers:
        terms = losses()
    reached = {name: _heads_of(value, layers) for name, value in terms.items()}
    served = {layer: frozenset(name for name, heads in reached.items() if layer in heads) for layer in layers}
    heads = {layer: names for layer, names in served.items() if names}
    found = _idle(layers, terms) + _twins(heads, sum(p.numel() for p in model.parameters()), n_items)
    total_gb = sum(output_gb(n_items, *layer.shape) for layer in heads)
    lines = [f"heads: {', '.join(layer.name for layer in heads)}; {total_gb:.2f} GB for their outputs"]
    if total_gb > allowed_gb:
        largest = max(heads, key=lambda layer: output_gb(*layer.shape))
        shape = "x".join(map(str, largest.shape))
        evidence: Evidence = {
            "estimated GB": total_gb, "allowed GB": allowed_gb,
            "largest tensor": f"{largest.name}, {shape} for one of {n_items} items",
        }  # fmt: skip
        found.append(diagnose("memory-over-budget", 0, evidence))
    return found, lines


def _twins(heads: Mapping[Layer, frozenset[str]], n_parameters: int, n_items: int) -> list[Diagnosis]:
    """Heads that read the same, make the same and serve the same losses."""
    groups: dict[tuple[object, ...], dict[str, Layer]] = {}
    for head, losses in heads.items():
        groups.setdefault((*head.job, losses), {})[head.name] = head
    found = []
    for group in groups.values():
        first = next(iter(group.values()))
        spare = (len(group) - 1) * first.n_parameters
        if spare > TWIN_SHARE * n_parameters:
            evidence: Evidence = {
                "heads": ", ".join(group),
                "their losses": ", ".join(sorted(heads[first])),
                "millions of parameters to spare": spare / 1e6,
                "GB for each output": output_gb(n_items, *first.shape),
            }
            found.append(diagnose("heads-duplicate", 0, evidence))
    return found


def _idle(layers: list[Layer], terms: Mapping[str, Tensor]) -> list[Diagnosis]:
    """Layers from which no way leads to a loss."""
    reached = {node for value in terms.values() for node in _walk(value.grad_fn, frozenset())}
    idle = [layer.name for layer in layers if layer.node not in reached]
    if not idle:
        return []
    return [diagnose("heads-duplicate", 0, {"heads": ", ".join(idle), "their losses": "none"})]


def _heads_of(value: Tensor, layers: list[Layer]) -> list[Layer]:
    """Layers met first on the way back from a loss."""
    by_node = {layer.node: layer for layer in layers}
    return [by_node[node] for node in _walk(value.grad_fn, frozenset(by_node)) if node in by_node]


def _walk(start: Node, ends: frozenset[Node]) -> Iterator[Node]:
    """Every node that can be reached against the direction of the computation, ``ends`` not passed."""
    seen, waiting = {None}, [start]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if node not in ends:
            waiting += [before for before, _ in node.next_functions]


@contextmanager
def _calls_of(model: nn.Module) -> Iterator[list[Layer]]:
    """Collects the calls of modules with a kernel while the model runs."""
    layers: list[Layer] = []

    def hook(name: str, n_parameters: int) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.grad_fn is not None:
                is_last = isinstance(module, nn.Linear)
                n_outputs = output.shape[-1 if is_last else 1]
                layers.append(
                    Layer(name, n_parameters, n_outputs, tuple(output.shape), inputs[0], output.grad_fn)
                )

        return look

    handles = []
    for name, module in model.named_modules():
        sizes = [p.numel() for p in module.parameters(recurse=False) if is_kernel(p)]
        if name and sizes:
            handles.append(module.register_forward_hook(hook(name, sum(sizes))))
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()
