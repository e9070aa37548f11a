"""Latents to codes and back: residual vector quantization, each stage coding what the ones before left.

Source: Zeghidour et al. 2021 (SoundStream), arXiv 2107.03312; straight-through estimator and
codebook + commitment loss: van den Oord et al. 2017, arXiv 1711.00937.

The straight-through subtlety. With one straight-through copy per stage and residuals formed
with detached codewords, the sum's Jacobian is the number of stages, and the encoder's gradient
is multiplied by it. Here every stage has its copy, but the residual that the *copies* see is
formed from the copies, so each later copy has Jacobian zero and the sum's is exactly the
identity for any number of stages. The residual that the *losses* see is formed with detached
codewords, so every stage sends its own commitment gradient to the encoder.

Shapes: B batch, D latent width, L frames, Q codebooks (stages), K codewords per codebook.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from telucodec.model.search import Stages

N_PRICES = 50  # of a stage that are tried where an item's stages are spread over its frames


class Quantized(NamedTuple):
    """What a training step needs to know about one quantization."""

    latents: Tensor  # [B, D, L] sum of the active codewords; gradient passes straight through
    codes: Tensor  # [B, Q, L] int64, also for inactive stages
    n_active: Tensor  # [B, L] stages used by each frame
    codebook_loss: Tensor  # scalar: codewords to their vectors, mean over active stages
    commitment_loss: Tensor  # scalar: latents to their codewords, mean over active stages
    residual_share: Tensor  # [Q] energy left after each stage over the latents' energy, detached


class ResidualVectorQuantizer(nn.Module):
    """Q codebooks of K codewords in the full latent space.

    Args:
        update: ``"gradient"`` makes the codebooks a parameter that the codebook loss trains;
            ``"ema"`` makes them a buffer that `telucodec.model.codebooks` moves.
        search_width: paths that the search for codes keeps open, see `telucodec.model.search`.
    """

    search_scale: Tensor

    def __init__(
        self, *, n_codebooks: int, codebook_size: int, latent_dim: int, update: str, search_width: int = 1
    ) -> None:
        super().__init__()
        self.search_width = search_width
        self._searched: tuple[object, Stages] | None = None
        self.register_buffer("search_scale", torch.ones(latent_dim), persistent=False)  # [D]
        codebooks = 0.1 * torch.randn(n_codebooks, codebook_size, latent_dim)
        if update == "gradient":
            self.codebooks = nn.Parameter(codebooks)
        else:
            self.register_buffer("codebooks", codebooks)

    @property
    def n_codebooks(self) -> int:
        return self.codebooks.shape[0]

    def weigh_search(self, weights: Sequence[float]) -> None:
        """From now on the search for codes weighs squared errors of latents by ``weights``, D of them.

        See `telucodec.train.sensitivity`. Searches that are already made keep their weights.
        """
        self.search_scale.copy_(torch.tensor(weights).sqrt())
        self._searched = None

    def forward(
        self, latents: Tensor, n_active: Tensor | None = None, *, is_spread: bool = False
    ) -> Quantized:
        """Quantize ``[B, D, L]`` in float32, item ``b`` by its first ``n_active[b]`` stages (None: all).

        Args:
            is_spread: ``n_active`` is of the item's mean frame, and frames end as `spread` says.
        """
        with torch.autocast(latents.device.type, enabled=False):
            return self._quantize(latents.float(), n_active, is_spread)

    def _quantize(self, latents: Tensor, n_active: Tensor | None, is_spread: bool) -> Quantized:
        n_stages, n_items, n_frames = self.n_codebooks, latents.shape[0], latents.shape[2]
        if n_active is None:
            n_active = torch.full((n_items,), n_stages, device=latents.device)
        codes, errors = self.encode_with_errors(latents.detach())
        depths = spread(errors, n_active) if is_spread else n_active[:, None].expand(-1, n_frames)  # [B, L]
        n_used = n_items * depths.sum(dim=1, keepdim=True)
        x = latents.transpose(1, 2)  # [B, L, D]
        residual = copied_residual = x
        total = torch.zeros_like(x)
        energy = x.detach().square().sum().clamp_min(1e-12)
        codebook_loss = commitment_loss = x.new_zeros(())
        shares = []
        for stage in range(n_stages):
            is_active = (depths > stage).to(x.dtype)  # [B, L]
            codewords = self.codebooks[stage][codes[:, stage]]  # [B, L, D]
            weight = is_active / n_used  # each item's mean over its own active stages
            codebook_loss = codebook_loss + (weight * _means(codewords - residual.detach())).sum()
            commitment_loss = commitment_loss + (weight * _means(residual - codewords.detach())).sum()
            mask = is_active[..., None]
            # Value: the codeword, exactly. Jacobian: that of the copied residual.
            copy = codewords.detach() + (copied_residual - copied_residual.detach())
            total = total + mask * copy
            copied_residual = copied_residual - mask * copy
            residual = residual - codewords.detach()
            shares.append(residual.detach().square().sum() / energy)
        return Quantized(
            latents=total.transpose(1, 2),
            codes=codes,
            n_active=depths,
            codebook_loss=codebook_loss,
            commitment_loss=commitment_loss,
            residual_share=torch.stack(shares),
        )

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """``[B, D, L]`` -> codes ``[B, Q', L]`` int64 of the first ``n_codebooks`` stages (all if None)."""
        return self.encode_with_errors(latents, n_codebooks)[0]

    def stages(self, n_codebooks: int | None = None, *, is_packed: bool = False) -> Stages | None:
        """The first ``n_codebooks`` stages (all if None), for callers that encode again and again."""
        return Stages(self.codebooks.detach()[:n_codebooks], self.search_scale, is_packed=is_packed)

    def _known_stages(self, n_codebooks: int | None) -> Stages:
        """Those that were searched last, unless codebooks were written to: laying them out takes a while.

        What is written through ``.data`` goes unnoticed, as it does by autograd.
        """
        weights = self.codebooks, self.search_scale
        if any(weight.is_inference() for weight in weights):  # which do not tell
            return Stages(self.codebooks[:n_codebooks], self.search_scale)
        version = (n_codebooks, *((weight._version, weight.data_ptr()) for weight in weights))
        if self._searched is None or self._searched[0] != version:
            self._searched = version, Stages(self.codebooks.detach()[:n_codebooks], self.search_scale)
        return self._searched[1]

    def __getstate__(self) -> dict[str, Any]:
        """Copies lay out their own stages."""
        return {**self.__dict__, "_searched": None}

    def encode_with_errors(
        self,
        latents: Tensor,
        n_codebooks: int | None = None,
        *,
        stages: Stages | None = None,
        least: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`encode`, and the squared error of each frame after 0 to Q' stages, ``[B, Q' + 1, L]``.

        Errors are weighted as the search weighs them.

        ``stages`` are those of `stages` for as many, and say how many if ``n_codebooks`` is None;
        ``least`` says how far frames are searched, see `telucodec.model.search.search`.
        """
        n_items, dim, n_frames = latents.shape
        vectors = latents.detach().float().transpose(1, 2).reshape(-1, dim)
        with torch.autocast(latents.device.type, enabled=False):
            stages = stages or self._known_stages(n_codebooks)
            found = stages.search(vectors, self.search_width, least)
        codes, errors = (part.view(len(part), n_items, n_frames).transpose(0, 1) for part in found)
        return codes, errors

    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``[B, Q', L]`` of the first Q' stages -> latents ``[B, D, L]``, their sum.

        A negative code adds nothing: the frame ends at an earlier stage.
        """
        codewords = self._codewords(codes.clamp_min(0))
        return (codewords * (codes >= 0)[..., None]).sum(dim=1).transpose(1, 2)

    def _codewords(self, codes: Tensor) -> Tensor:
        """Codes ``[B, Q', L]`` -> ``[B, Q', L, D]``."""
        n_stages, size = codes.shape[1], self.codebooks.shape[1]
        first = size * torch.arange(n_stages, device=codes.device)[:, None]  # of each codebook
        return fn.embedding(codes + first, self.codebooks.flatten(0, 1))


def spread(errors: Tensor, n_active: Tensor) -> Tensor:
    """Stages of each frame ``[B, L]``, on average about ``n_active[b]``, where they take off most.

    What frames of variable depth do in a stream: each ends where the squared error plus a price times its
    stages is least. With all Q stages none ends early.

    Args:
        errors: ``[B, Q + 1, L]`` as from `ResidualVectorQuantizer.encode_with_errors`.
    """
    n_stages = errors.shape[1] - 1
    prices = torch.logspace(-5, 0, N_PRICES, device=errors.device)[:, None] * errors[:, 0].mean(
        dim=1
    )  # [P, B]
    paid = torch.arange(n_stages + 1, device=errors.device)[:, None] * prices[..., None, None]
    depths = (errors + paid).argmin(dim=2).clamp_min(1)  # [P, B, L]
    best = (depths.float().mean(dim=2) - n_active).abs().argmin(dim=0)  # [B]
    chosen = depths[best, torch.arange(len(errors), device=errors.device)]
    return torch.where((n_active == n_stages)[:, None], n_stages, chosen)


def _means(difference: Tensor) -> Tensor:
    """Mean square of each frame: ``[B, L, D]`` -> ``[B, L]``."""
    return difference.square().mean(dim=2)
