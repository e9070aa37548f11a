"""Checks of the training plan against the model: what a deep stack needs, and what a clipping limit does.

Nothing is run; `check_plan` takes plain values, so that any model's preflight can ask it.
"""

import dataclasses

from torch import nn

from telucodec.config import OptimConfig
from telucodec.train.diagnostics.diagnosis import Diagnosis, Evidence, diagnose

DEEP = 16  # kernels in one part; the default's encoder has 21, its decoder 25
WARMUP_STEPS = 20  # fewer are none
UNCLIPPED = 10.0  # times the gradient at the start: such a limit is none
# That a clipped gradient must hold per parameter; at 130 the encoder's steps are 9 % smaller.
EPSILONS = 100.0


def check_plan(
    optim: OptimConfig, *, n_kernels: int, n_parameters: int, start_norm: float, epsilon: float
) -> list[Diagnosis]:
    """Refuse a clipping limit that starves the optimizer; warn of a deep stack that nothing holds back.

    Args:
        n_kernels: layers of the deepest part, as `deepest_part` counts them.
        n_parameters: that learn by gradient.
        start_norm: of the gradient of the first batch, before clipping.
        epsilon: that the optimizer adds to its denominators.
    """
    found = []
    per_parameter = min(optim.max_grad_norm, start_norm) / n_parameters**0.5
    if optim.max_grad_norm < start_norm and per_parameter < EPSILONS * epsilon:
        evidence: Evidence = {
            "limit": optim.max_grad_norm, "gradient norm": start_norm,
            "clipped per parameter": per_parameter, "expected at least": EPSILONS * epsilon,
        }  # fmt: skip
        found.append(dataclasses.replace(diagnose("clipping-always", 0, evidence), is_warning=False))
    has_warmup = optim.n_warmup_steps >= WARMUP_STEPS
    is_clipped = optim.max_grad_norm < UNCLIPPED * start_norm
    if n_kernels > DEEP and not (has_warmup and is_clipped):
        missing = [] if has_warmup else [f"warmup ({optim.n_warmup_steps} steps)"]
        missing += [] if is_clipped else [f"clipping (limit {optim.max_grad_norm:g}, norm {start_norm:.3g})"]
        facts: Evidence = {"layers of a part": float(n_kernels), "missing": " and ".join(missing)}
        found.append(diagnose("depth-unguarded", 0, facts))
    return found


def deepest_part(model: nn.Module) -> int:
    """Layers with a kernel in the part that has most of them."""
    return max(sum(1 for p in part.parameters() if is_kernel(p)) for part in model.children())


def is_kernel(parameter: nn.Parameter) -> bool:
    """Whether it mixes channels; gains and biases have one dimension that counts."""
    return sum(1 for size in parameter.shape if size > 1) >= 2
