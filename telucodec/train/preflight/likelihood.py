"""The check that a prior's likelihood has to pass before anything is trained on it.

A discretized likelihood, such as the mixture of logistics of PixelCNN++ (Salimans et al. 2017, arXiv
1701.05517), has two bins that integrate a whole tail, and scales that are exponentials of what the
network gives. Both go wrong silently: edges chosen by the predicted value instead of the target, a
clamp on one side only. So the likelihood is asked about outputs that no sane network gives.

Shapes: N outputs of a network, P raw parameters each, K levels.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from telucodec.train.diagnostics.diagnosis import Diagnosis, Evidence, diagnose

LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""Raw parameters ``[N, P]`` and targets ``[N]`` of 0 to K - 1 to natural log-probabilities ``[N]``."""

SIZES = (1.0, 10.0, 100.0, 1000.0)  # standard deviations of the raw parameters
USUAL = 10.0  # up to which the network must always find its way back
SUM_ERROR = 1e-3  # tolerated distance of the sum of all probabilities from 1
MIRROR_ERROR = 1e-2  # of a log-probability above `SEEN`
SEEN = -10.0  # log-probabilities below hardly matter to a sum
IMPROBABLE = -5.0  # nats below an even guess: targets that the network has to learn from most


def check_likelihood(
    log_likelihood: LogLikelihood,
    *,
    n_parameters: int,
    n_levels: int,
    mirror: Callable[[Tensor], Tensor] | None = None,
    n_draws: int = 8,
) -> list[Diagnosis]:
    """For raw parameters of every size: the probabilities sum to 1 and every target has a finite one, a
    mirrored output gives mirrored targets the same, gradients are finite, and improbable targets have some.

    Args:
        mirror: ``[N, P]`` to the raw parameters of the distribution seen in a mirror (of a mixture: its
            means negated); None for levels without order.
    """
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        for row in size * torch.randn(n_draws, n_parameters, generator=generator):
            for fault, value in _faults(log_likelihood, row, n_levels, mirror, is_usual=size <= USUAL):
                evidence: Evidence = {"fault": fault, "value": value, "size of the raw parameters": size}
                return [diagnose("likelihood-unsound", 0, evidence)]
    return []


def _faults(
    log_likelihood: LogLikelihood,
    row: Tensor,
    n_levels: int,
    mirror: Callable[[Tensor], Tensor] | None,
    *,
    is_usual: bool,
) -> Iterator[tuple[str, float]]:
    """What is wrong with the distribution of one output ``[P]``, worst first, each with a figure."""
    targets = torch.arange(n_levels)
    raw = row.expand(n_levels, -1).clone().requires_grad_(True)
    found = log_likelihood(raw, targets)
    if n_bad := int((~torch.isfinite(found)).sum()):
        yield "targets without a finite log-probability", float(n_bad)
        return
    total = float(found.detach().double().logsumexp(dim=0).exp())
    if abs(total - 1) > SUM_ERROR:
        yield "sum of all probabilities", total
    if mirror is not None:
        with torch.no_grad():
            mirrored = log_likelihood(mirror(raw.detach()), targets.flip(0))
        difference = (mirrored - found.detach())[found > SEEN].abs().max()
        if not difference <= MIRROR_ERROR:
            yield "difference to the mirrored log-probability", float(difference)
    (gradient,) = torch.autograd.grad(found.sum(), raw)
    if not torch.isfinite(gradient).all():
        yield "targets without a finite gradient", float((~torch.isfinite(gradient)).any(dim=1).sum())
    is_stuck = (found < IMPROBABLE - math.log(n_levels)) & ~gradient.any(dim=1)
    if is_usual and is_stuck.any():
        yield "improbable targets without a gradient", float(is_stuck.sum())
