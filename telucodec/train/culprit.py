"""Where a value that is not finite came from: the batch, the first module, a loss term, or a gradient.

Only asked after a step went wrong, so it may take as long as a step.

Shapes: B batch, T samples.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from telucodec.train.loop import Trainee
from telucodec.train.losses import ReconstructionLoss


@torch.no_grad()
def find_culprit(trainee: Trainee, loss: ReconstructionLoss, wav: Tensor) -> str:
    """Name what first held a value that is not finite when ``wav`` ``[B, 1, T]`` goes through again."""
    if not torch.isfinite(wav).all():
        items = torch.nonzero(~torch.isfinite(wav).flatten(1).all(dim=1)).flatten().tolist()
        return f"the batch itself (items {', '.join(map(str, items))})"
    with _watched(trainee.codec) as found:
        estimate = trainee.wrapped(wav).wav.float()
    if found:
        return f"the output of {found[0]}"
    for name, value in loss(estimate, wav).items():
        if not torch.isfinite(value):
            return f"the loss term {name}"
    gradients = {name: p.grad for name, p in trainee.codec.named_parameters() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    return f"the gradient of {bad[-1]}" if bad else "nothing that shows again"


@contextmanager
def _watched(codec: nn.Module) -> Iterator[list[str]]:
    """Collects names of modules whose output is not finite, in the order of the forward pass."""
    found: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
                found.append(name)

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in codec.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
