"""The encoder's side of a refinement: decode what the network's stages say, and code what is left.

Shapes: B batch, T samples, L frames of a packet, N refined coefficients, F bands, Q codebooks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telucodec.bitstream.bitpack import ABSENT, Codes
from telucodec.bitstream.coder import N_LEVEL_STAGES
from telucodec.frames import GROUP_FRAMES
from telucodec.ladders import Frames
from telucodec.model.codec import Codec, stages_of
from telucodec.model.levels import LARGEST, N_BANDS
from telucodec.model.live import rounded_synthesis
from telucodec.model.postfilter import filter_of
from telucodec.model.refinement import Refinement, n_refined, refinement
from telucodec.prior.depths import steady

CHANGE_OF_LEVEL = 6.0  # over kbps: squared steps that a change must pay for, less where bits are many
QUIETER = 0.3  # steps less than a level that matches: too loud is heard, and spoils the SNR, before too quiet


class Refiner:
    """What one stream's network leaves to be refined; keeps the state of its decoder.

    Args:
        n_codebooks: stages of the refinement that are written.
        kbps: rate of the stream, by which levels are as steady as they have to be.
    """

    def __init__(self, codec: Codec, n_codebooks: int, kbps: float) -> None:
        like = codec.decoder.output_scale.new_empty(1, 0, 0)
        self.refinement = refinement_of(codec)
        self._n_codebooks = n_codebooks
        self._change = CHANGE_OF_LEVEL / kbps
        self._n_refined = 2 * (n_codebooks - 1 - N_LEVEL_STAGES)
        self._device = like.device
        self._synthesis = rounded_synthesis(codec)
        self._decoder_state = self._synthesis.decoder.initial_state(like)
        postfilter = filter_of(codec)
        assert postfilter is not None
        self._filter = postfilter
        self._filter_state: Any = self._filter.initial_state(like)
        self._waiting = like.new_zeros(1, 1, self._filter.delay)  # samples of the recording that came last
        self._heard = self._decoded = self.refinement.initial_state(like)

    @torch.inference_mode()
    def targets(self, wav: Tensor) -> NDArray[np.float32]:
        """Levels and coefficients ``[F + N, L]`` of the next whole frames of the recording, ``[1, 1, T]``."""
        wav = torch.cat([self._waiting, wav], dim=-1)
        n_waiting = self._filter.delay
        self._waiting = wav[..., -n_waiting:].clone()
        targets, self._heard = self.refinement.targets(wav[..., :-n_waiting], self._heard)
        found: NDArray[np.float32] = targets.cpu().numpy()[0].copy()
        return found

    def residuals(self, packets: Sequence[Frames], codes: Sequence[Codes]) -> list[NDArray[np.float32]]:
        """What is left of the next packets if ``codes`` are written of them, ``[Q + N, L]`` each.

        Codes of levels, `N_LEVEL_STAGES` of them, and the coefficients in the units of their steps.
        """
        found: list[NDArray[np.float32]] = []
        first = 0
        while first < len(packets):
            last, n_frames = first, 0
            while last < len(packets) and n_frames < GROUP_FRAMES:
                n_frames += packets[last].codes.shape[1]
                last += 1
            targets = [packet.targets for packet in packets[first:last] if packet.targets is not None]
            left = self._left(np.hstack(codes[first:last]), np.hstack(targets))
            ends = np.cumsum([target.shape[1] for target in targets])
            parts = np.split(left, ends[:-1], axis=1)
            levels = _steady_levels([part[:N_BANDS] for part in parts], self._change)
            found += [
                np.vstack([self._codes_of(steps), part[N_BANDS:]])
                for steps, part in zip(levels, parts, strict=True)
            ]
            first = last
        return found

    @torch.inference_mode()
    def _left(self, codes: Codes, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        table = torch.from_numpy(np.where(codes != ABSENT, codes, np.int64(-1))[None]).to(self._device)
        (wav, _), self._decoder_state = self._synthesis.step(table, self._decoder_state)
        wav, self._filter_state = self._filter.step(wav, self._filter_state, stages_of(table))
        given = torch.from_numpy(targets).to(self._device)[None]
        left, self._decoded = self.refinement.residuals(wav, given, self._decoded)
        found: NDArray[np.float32] = left[0, : N_BANDS + self._n_refined].cpu().numpy().copy()
        return found

    def _codes_of(self, levels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Codes of a packet's levels ``[F, L]``, as numbers to stand beside coefficients."""
        codes = self.refinement.levels.encode(torch.from_numpy(levels).to(self._device))
        found: NDArray[np.float32] = codes.cpu().numpy().astype(np.float32)
        return found

    @torch.inference_mode()
    def codes_at(self, residuals: NDArray[np.float32], step: int) -> Codes:
        """Codes ``[Q, L]`` of `residuals` with a step of their coefficients."""
        of_levels, left = np.split(residuals, [N_LEVEL_STAGES])
        whole = np.zeros((self.refinement.n_refined, left.shape[1]), dtype=np.float32)
        whole[: len(left)] = left
        given = torch.from_numpy(whole).to(self._device)[None]
        codes = self.refinement.quantizer.encode_at(given, torch.tensor([step], device=self._device))
        found = codes[0].cpu().numpy()
        joined: Codes = np.vstack([found[:1], of_levels, found[1:]]).astype(np.uint16)[: self._n_codebooks]
        return joined


def _steady_levels(packets: Sequence[NDArray[np.float32]], change: float) -> list[NDArray[np.int64]]:
    """Whole steps, a little less than those of each packet, ``[F, L]``, that change only where it pays."""
    longest = max(packet.shape[1] for packet in packets)
    alike = [np.pad(each, ((0, 0), (0, longest - each.shape[1])), mode="edge") for each in packets]
    rows = np.vstack(alike) - QUIETER  # [P * F, L]
    costs = (rows.T[..., None] - np.arange(-LARGEST, LARGEST + 1)) ** 2
    chosen = steady(costs, np.full((len(rows), 1), change)).T - LARGEST
    return [
        steps[:, : each.shape[1]]
        for steps, each in zip(np.vsplit(chosen, len(packets)), packets, strict=True)
    ]


def refinement_of(codec: Codec) -> Refinement:
    """The refinement that suits the shape of ``codec``."""
    return refinement(codec.config.hop, n_refined(codec.config), codec.decoder.output_scale.device)
