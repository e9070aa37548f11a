"""Latents to codes at high rates: a step for each frame, then pairs of latents on lattices, coarse to fine.

Codebooks in the full latent space cannot follow a frame's spectrum: at 10 bits for 320 latents a stage
takes a sixth of a decibel off. Here the code of stage 0 is the frame's step, and each later stage codes one
pair of latents, divided by the step, with the nearest of K points of the square lattice. A sweep runs
over the pairs from the lowest; the next sweep codes what it left, on a finer lattice. Quiet pairs have the
code 0, which the entropy coder makes nearly free: it does what bit allocation does elsewhere.

One step for all frames gives all of them the same noise, which is the best there is for the SNR at a rate
(reverse water-filling: Berger 1971, Rate Distortion Theory, 4.5). A frame too loud for the coarsest lattice
takes a larger one.

Shapes: B batch, D latent width, L frames, Q codebooks (stages), K codewords per codebook, P pairs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from telucodec.model.quantizer import Quantized, ResidualVectorQuantizer
from telucodec.model.search import Stages

STEPS_PER_OCTAVE = 8
UNIT_STEP = 160  # the code of step 1
DEFAULT_SNR_DB = 30.0  # about, where no rate is asked for
DEAD_ZONE = 0.1  # that the finest lattice is moved towards zero when codes are chosen, in steps


class LatticeQuantizer(ResidualVectorQuantizer):
    """A residual quantizer without weights: its codebooks are known from its settings.

    Args:
        sweeps: latents that each sweep covers, lowest first; even numbers.
        codebook_size: K; also how many steps there are.
    """

    points: Tensor
    index: Tensor
    reach: Tensor

    def __init__(self, *, sweeps: Sequence[int], codebook_size: int, latent_dim: int) -> None:
        nn.Module.__init__(self)  # no codebooks to learn
        self.search_width = 1
        self.sweeps = tuple(sweeps)
        self.latent_dim = latent_dim
        points = lattice_points(codebook_size)
        self.radius = int(points.abs().max())
        self.ratio = math.isqrt(int(2 * codebook_size / math.pi))  # a coarse cell lies inside the finer disc
        side = 2 * self.radius + 1
        index = torch.full((side, side), -1)
        index[points[:, 0] + self.radius, points[:, 1] + self.radius] = torch.arange(codebook_size)
        inner = math.sqrt(codebook_size / math.pi) / math.sqrt(2)  # of the square in the disc
        reach = torch.zeros(latent_dim)
        for number, n_latents in enumerate(self.sweeps):
            reach[:n_latents] = torch.maximum(reach[:n_latents], torch.tensor(inner * self.spacing(number)))
        reach[reach == 0] = math.inf  # those that no sweep covers
        self.register_buffer("reach", reach, persistent=False)  # [D] largest latent, in steps
        self.register_buffer("points", points.float(), persistent=False)  # [K, 2]
        self.register_buffer("index", index, persistent=False)  # [side, side] of each point, -1 outside

    @property
    def n_codebooks(self) -> int:
        return 1 + sum(self.sweeps) // 2

    def _quantize(self, latents: Tensor, n_active: Tensor | None, is_spread: bool) -> Quantized:
        """All stages whatever ``n_active``; the codebooks have nothing to learn, so both losses are zero."""
        codes, errors = self.encode_with_errors(latents.detach())
        zero = latents.new_zeros(())
        return Quantized(
            latents=self.decode(codes) + (latents - latents.detach()),
            codes=codes,
            n_active=torch.full_like(codes[:, 0], self.n_codebooks),
            codebook_loss=zero,
            commitment_loss=zero,
            residual_share=errors[:, 1:].sum(dim=(0, 2)) / errors[:, 0].sum().clamp_min(1e-12),
        )

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """See `ResidualVectorQuantizer.encode`; the step suits the mean energy of each item."""
        return self.encode_at(latents.float(), self.default_step(latents.float()))[:, :n_codebooks]

    def stages(self, n_codebooks: int | None = None, *, is_packed: bool = False) -> Stages | None:
        """None: nothing is searched."""
        return None

    def encode_with_errors(
        self,
        latents: Tensor,
        n_codebooks: int | None = None,
        *,
        stages: Stages | None = None,
        least: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `ResidualVectorQuantizer.encode_with_errors`; ``stages`` and ``least`` say nothing."""
        codes = self.encode(latents, n_codebooks)
        errors = [latents.square().sum(dim=1)] * 2  # the step alone takes nothing off
        residual = latents.float().clone()
        scale = step_of(codes[:, 0])[:, None]  # [B, 1, L]
        for stage, (first, spacing) in enumerate(self._places()[: codes.shape[1] - 1], start=1):
            pair = residual[:, first : first + 2]
            before = pair.square().sum(dim=1)
            pair -= self.points[codes[:, stage]].transpose(1, 2) * (spacing * scale)
            errors.append(errors[-1] - before + pair.square().sum(dim=1))
        return codes, torch.stack(errors, dim=1)[:, : codes.shape[1] + 1].clamp_min(0)

    def default_step(self, latents: Tensor) -> Tensor:
        """``[B]`` codes of the step at which items ``[B, D, L]`` come out at about `DEFAULT_SNR_DB`."""
        return step_for(latents.square().mean(dim=(1, 2)), DEFAULT_SNR_DB)

    def encode_at(self, latents: Tensor, steps: Tensor) -> Tensor:
        """Codes ``[B, Q, L]`` with the steps ``[B]``, or the least that holds a frame too loud for it."""
        code = torch.maximum(steps[:, None], self._least_step(latents)).clamp(0, len(self.points) - 1)
        residual, codes = latents / step_of(code)[:, None], [code[:, None]]
        n_items, _, n_frames = latents.shape
        for number, n_latents in enumerate(self.sweeps):
            spacing = self.spacing(number)
            pairs = residual[:, :n_latents].reshape(n_items, n_latents // 2, 2, n_frames) / spacing
            found = self._nearest(pairs, DEAD_ZONE if number == len(self.sweeps) - 1 else 0.0)
            points = self.points[found].transpose(2, 3)  # [B, P, 2, L]
            residual[:, :n_latents] -= (points * spacing).flatten(1, 2)
            codes.append(found)
        return torch.cat(codes, dim=1)

    def _least_step(self, latents: Tensor) -> Tensor:
        """``[B, L]`` codes of the smallest step with which no pair lies outside the sweeps that cover it."""
        step = (latents.abs() / self.reach[:, None]).amax(dim=1).clamp_min(1e-12)
        code: Tensor = (UNIT_STEP + STEPS_PER_OCTAVE * step.log2()).ceil().long()
        return code

    def decode(self, codes: Tensor) -> Tensor:
        """See `ResidualVectorQuantizer.decode`."""
        n_items, _, n_frames = codes.shape
        chosen = self.points[codes[:, 1:].clamp_min(0)] * (codes[:, 1:, :, None] >= 0)  # [B, Q' - 1, L, 2]
        latents = chosen.new_zeros(n_items, self.latent_dim, n_frames)
        start = 0
        for number, n_latents in enumerate(self.sweeps):
            part = chosen[:, start : start + n_latents // 2].transpose(2, 3).flatten(1, 2)
            latents[:, : part.shape[1]] += part * self.spacing(number)
            start += n_latents // 2
        return latents * step_of(codes[:, :1].clamp_min(0))

    def spacing(self, sweep: int) -> float:
        """Of the lattice of a sweep, in steps."""
        return float(self.ratio ** (len(self.sweeps) - 1 - sweep))

    def contexts(self) -> list[list[tuple[int, int]]]:
        """Stage and frames away of what predicts the codes of each stage, for the entropy tables.

        Of earlier sweeps the same pair and the next higher one, of the same sweep the three pairs below, and
        the step.
        """
        found: list[list[tuple[int, int]]] = [[(0, -1), (0, -2)]]
        start, before = 1, 0  # first stages of this sweep, and of the one before
        for number, n_latents in enumerate(self.sweeps):
            n_before = self.sweeps[number - 1] // 2 if number else 0
            for pair in range(n_latents // 2):
                near: list[tuple[int, int]] = []
                if pair < n_before:
                    near += [(before + pair, offset) for offset in (0, -1, 1)]
                if pair + 1 < n_before:
                    near.append((before + pair + 1, 0))
                if pair:
                    near += [(start + pair - 1, offset) for offset in (0, -1, 1)]
                near += [(start + pair - below, 0) for below in (2, 3) if pair >= below]
                found.append([*near[:8], (0, 0)])
            start, before = start + n_latents // 2, start
        return found

    def _places(self) -> list[tuple[int, float]]:
        """First latent and spacing of each stage but the first."""
        return [
            (first, self.spacing(number))
            for number, n_latents in enumerate(self.sweeps)
            for first in range(0, n_latents, 2)
        ]

    def _nearest(self, pairs: Tensor, dead_zone: float) -> Tensor:
        """Codes ``[B, P, L]`` of pairs ``[B, P, 2, L]``; those outside the disc are drawn onto it."""
        length = pairs.square().sum(dim=2, keepdim=True).sqrt()
        drawn = pairs * (self.radius / length.clamp_min(1e-12)).clamp_max(1.0)
        point = torch.sign(drawn) * (drawn.abs() + (0.5 - dead_zone)).floor()
        code = self._index(point)
        return torch.where(code >= 0, code, self._index(drawn.trunc()))

    def _index(self, point: Tensor) -> Tensor:
        place = (point.long() + self.radius).clamp(0, 2 * self.radius)
        return self.index[place[:, :, 0], place[:, :, 1]]


def lattice_points(size: int) -> Tensor:
    """The ``size`` points of the square lattice nearest to zero, ``[size, 2]``, nearest first."""
    reach = torch.arange(-math.isqrt(size), math.isqrt(size) + 1)
    points = torch.cartesian_prod(reach, reach)
    return points[points.square().sum(dim=1).argsort(stable=True)[:size]]


def step_of(codes: Tensor) -> Tensor:
    """Steps of the codes of stage 0."""
    return torch.exp2((codes - UNIT_STEP) / STEPS_PER_OCTAVE)


def step_for(power: Tensor, snr_db: float) -> Tensor:
    """Codes of the steps whose uniform noise is ``snr_db`` below latents of this mean square."""
    step = (12 * power.clamp_min(1e-12) * 10 ** (-snr_db / 10)).sqrt()
    return (UNIT_STEP + STEPS_PER_OCTAVE * step.log2()).round().long().clamp_min(0)
