"""The encoder's side of a refinement: decode what the network's stages say, and code what is left.

Shapes: B batch, T samples, L frames of a packet, N refined coefficients, Q codebooks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telucodec.bitstream.bitpack import ABSENT, Codes
from telucodec.frames import GROUP_FRAMES
from telucodec.ladders import Frames
from telucodec.model.codec import Codec, stages_of
from telucodec.model.live import rounded_synthesis
from telucodec.model.postfilter import filter_of
from telucodec.model.refinement import Refinement, n_refined, refinement


class Refiner:
    """What one stream's network leaves to be refined; keeps the state of its decoder.

    Args:
        n_codebooks: stages of the refinement that are written.
    """

    def __init__(self, codec: Codec, n_codebooks: int) -> None:
        like = codec.decoder.output_scale.new_empty(1, 0, 0)
        self.refinement = refinement_of(codec)
        self._n_codebooks = n_codebooks
        self._n_refined = 2 * (n_codebooks - 1)
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
        """Coefficients ``[N, L]`` of the next whole frames of the recording, ``[1, 1, L * hop]``."""
        wav = torch.cat([self._waiting, wav], dim=-1)
        n_waiting = self._filter.delay
        self._waiting = wav[..., -n_waiting:].clone()
        coefficients, self._heard = self.refinement.targets(wav[..., :-n_waiting], self._heard)
        found: NDArray[np.float32] = coefficients.cpu().numpy()[0].copy()
        return found

    def residuals(self, packets: Sequence[Frames], codes: Sequence[Codes]) -> list[NDArray[np.float32]]:
        """``[N, L]`` of the next packets, in the units of their steps, if ``codes`` are written of them."""
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
            found += np.split(left, ends[:-1], axis=1)
            first = last
        return found

    @torch.inference_mode()
    def _left(self, codes: Codes, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        table = torch.from_numpy(np.where(codes != ABSENT, codes, np.int64(-1))[None]).to(self._device)
        (wav, _), self._decoder_state = self._synthesis.step(table, self._decoder_state)
        wav, self._filter_state = self._filter.step(wav, self._filter_state, stages_of(table))
        coefficients, unit, self._decoded = self.refinement.decoded(wav, self._decoded)
        left = (torch.from_numpy(targets).to(self._device)[None] - coefficients) / unit
        found: NDArray[np.float32] = left[0, : self._n_refined].cpu().numpy().copy()
        return found

    @torch.inference_mode()
    def codes_at(self, residuals: NDArray[np.float32], step: int) -> Codes:
        """Codes ``[Q, L]`` of residuals ``[N, L]`` with a step."""
        whole = np.zeros((self.refinement.n_refined, residuals.shape[1]), dtype=np.float32)
        whole[: len(residuals)] = residuals
        given = torch.from_numpy(whole).to(self._device)[None]
        codes = self.refinement.quantizer.encode_at(given, torch.tensor([step], device=self._device))
        found: Codes = codes[0, : self._n_codebooks].cpu().numpy().astype(np.uint16)
        return found


def refinement_of(codec: Codec) -> Refinement:
    """The refinement that suits the shape of ``codec``."""
    return refinement(codec.config.hop, n_refined(codec.config), codec.decoder.output_scale.device)
