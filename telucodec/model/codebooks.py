"""How codewords learn beside the gradient: k-means start, exponential moving averages, revival of dead ones.

EMA codebooks: van den Oord et al. 2017, arXiv 1711.00937, appendix A.1. Revival replaces the
codeword *and* everything that would bring its dead value back: the EMA sums it is computed from
and the optimizer's moments of its row. Forgetting the sums makes revival a no-op, a defect
that several published codecs share.

Shapes: B batch, D latent width, L frames, N vectors, Q codebooks, K codewords.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from telucodec.model.quantizer import ResidualVectorQuantizer
from telucodec.model.search import nearest


@dataclass(frozen=True, slots=True)
class CodebookStats:
    """Health of each stage, ``[Q]`` each, from the moving usage counts."""

    perplexity: Tensor  # exp of the entropy of use, 1 to K
    usage: Tensor  # share of codewords used at least a tenth as often as the mean one
    n_revived: Tensor  # codewords replaced in this step
    dead_age: Tensor  # steps that the least used codeword went without use, by its decayed count


class CodebookLearner(nn.Module):
    """Training state of the codebooks of one quantizer; not part of the shipped weights.

    Args:
        decay: of the moving counts and sums, per step.
        revive_below: replace a codeword used less than this share of its stage's mean use.
    """

    usage: Tensor
    sums: Tensor

    def __init__(self, quantizer: ResidualVectorQuantizer, *, decay: float, revive_below: float) -> None:
        super().__init__()
        self.decay = decay
        self.revive_below = revive_below
        self.register_buffer("usage", torch.ones(quantizer.codebooks.shape[:2]))  # [Q, K]
        self.register_buffer("sums", quantizer.codebooks.detach().clone())  # [Q, K, D]

    @torch.no_grad()
    def initialize(
        self, quantizer: ResidualVectorQuantizer, latents: Tensor, *, n_iterations: int = 10, seed: int = 0
    ) -> None:
        """Set every codebook by k-means on what the stages before leave of latents ``[N, D]``."""
        generator = torch.Generator(latents.device).manual_seed(seed)
        residual = latents.float()
        for codebook in quantizer.codebooks:
            codebook.copy_(k_means(residual, codebook.shape[0], n_iterations, generator))
            residual = residual - codebook[nearest(residual, codebook)]
        self.usage.fill_(1.0)
        self.sums.copy_(quantizer.codebooks)

    @torch.no_grad()
    def update(
        self,
        quantizer: ResidualVectorQuantizer,
        latents: Tensor,
        codes: Tensor,
        n_active: Tensor,
        *,
        seed: int,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> CodebookStats:
        """Learn from one step, after the optimizer moved: count use, move EMA codewords, revive dead ones.

        Args:
            latents: ``[B, D, L]``, the quantizer's input.
            codes: ``[B, Q, L]``, what it chose.
            n_active: ``[B]`` or ``[B, L]``; stages an item or a frame did not use learn nothing from it.
            seed: of the choice of replacements; the same on every process.
            optimizer: whose moments of revived rows are reset; None if it does not train codebooks.
        """
        residual = latents.detach().float().transpose(1, 2)  # [B, L, D]
        depths = n_active if n_active.dim() == 2 else n_active[:, None].expand(residual.shape[:2])
        is_ema = not isinstance(quantizer.codebooks, nn.Parameter)
        generator = torch.Generator().manual_seed(seed)
        before = quantizer.codebooks.detach().clone()
        n_revived = []
        for stage, codebook in enumerate(quantizer.codebooks.detach()):
            is_active = depths > stage  # [B, L]
            vectors, chosen = residual[is_active], codes[:, stage][is_active]  # [N, D], [N]
            self._count(stage, vectors, chosen)
            if is_ema:
                codebook.copy_(self.sums[stage] / self.usage[stage].clamp_min(1e-8)[:, None])
            revived = self._revive(stage, codebook, vectors, generator)
            if optimizer is not None and revived.numel():
                _reset_moments(optimizer, quantizer.codebooks, stage, revived)
            n_revived.append(revived.numel())
            residual = residual - before[stage][codes[:, stage]]
        return self.stats(torch.tensor(n_revived))

    def stats(self, n_revived: Tensor | None = None) -> CodebookStats:
        """Health by the counts as they stand."""
        share = self.usage / self.usage.sum(dim=1, keepdim=True)
        relative = (share.amin(dim=1) * share.shape[1]).clamp(1e-12, 1.0)
        return CodebookStats(
            perplexity=torch.exp(-(share * share.clamp_min(1e-12).log()).sum(dim=1)),
            usage=(share > 0.1 / share.shape[1]).float().mean(dim=1),
            n_revived=torch.zeros(share.shape[0]) if n_revived is None else n_revived,
            dead_age=relative.log() / math.log(self.decay),
        )

    def _count(self, stage: int, vectors: Tensor, chosen: Tensor) -> None:
        counts = torch.zeros_like(self.usage[stage]).index_add_(0, chosen, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(self.sums[stage]).index_add_(0, chosen, vectors)
        self.usage[stage].lerp_(_sum_over_processes(counts), 1 - self.decay)
        self.sums[stage].lerp_(_sum_over_processes(sums), 1 - self.decay)

    def _revive(self, stage: int, codebook: Tensor, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """Replace dead codewords by random vectors; returns their indices."""
        mean = self.usage[stage].mean()
        dead = torch.nonzero(self.usage[stage] < self.revive_below * mean).flatten()
        dead = dead[: vectors.shape[0]]
        if dead.numel():
            picks = torch.randperm(vectors.shape[0], generator=generator)[: dead.numel()]
            fresh = _from_first_process(vectors[picks.to(vectors.device)])
            codebook[dead] = fresh
            self.usage[stage, dead] = mean
            self.sums[stage, dead] = fresh * mean
        return dead


def k_means(vectors: Tensor, n_clusters: int, n_iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm: ``[N, D]`` -> ``[n_clusters, D]``; an empty cluster restarts on a random vector."""
    device = vectors.device
    centers = vectors[torch.randint(len(vectors), (n_clusters,), generator=generator, device=device)].clone()
    for _ in range(n_iterations):
        assigned = nearest(vectors, centers)
        counts = torch.bincount(assigned, minlength=n_clusters)
        sums = torch.zeros_like(centers).index_add_(0, assigned, vectors)
        fresh = vectors[torch.randint(len(vectors), (n_clusters,), generator=generator, device=device)]
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], fresh)
    return centers


def _reset_moments(optimizer: torch.optim.Optimizer, parameter: Tensor, stage: int, rows: Tensor) -> None:
    for moment in optimizer.state.get(parameter, {}).values():
        if isinstance(moment, Tensor) and moment.shape == parameter.shape:
            moment[stage, rows] = 0


def _sum_over_processes(value: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def _from_first_process(value: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(value, src=0)
    return value
