"""The encoder's search for codes where a rate is known: each frame no further than its bits will pay.

At low rates most frames end after a few of the stages, and to search the others is work for nothing. What a
bit will cost is foreseen from the energies of the frames and what stages leave of them on average; a frame
whose last stages took off less than a part of that ends there.

Shapes: D latent width, Q codebooks, L frames of a packet, P packets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from telucodec.coders import measured_rates, price_of
from telucodec.frames import GROUP_FRAMES
from telucodec.ladders import DepthLadder, Frames
from telucodec.model.live import Analysis
from telucodec.prior.depths import MIN_DEPTH

MARGIN = 2.5  # a frame ends where its last two stages took off less than this part of twice what one costs
LOW = 0.4  # of the rate of all stages, up to which most frames end early
USED = 0.97  # of a rate; where less is, frames ended too early


@dataclass(frozen=True)
class Searcher:
    """Finds codes of frames whose latents were held back, for one rate."""

    analysis: Analysis
    bits: NDArray[np.float64]  # [Q] that the first 1 to Q stages of a frame take on average
    left: NDArray[np.float64]  # [Q + 1] share of the energy that the first 0 to Q stages leave
    price: float  # of a bit, to begin with
    kbps: float
    device: torch.device

    def waiting(self, latents: NDArray[np.float32]) -> Frames:
        """Frames with latents ``[D, L]`` and their energies, whose codes are not searched yet."""
        scale = self.analysis.quantizer.search_scale.cpu().numpy()[:, None]
        energies = np.square(scale * latents).sum(axis=0)[None]
        return Frames(np.zeros((0, latents.shape[1]), np.uint16), energies, latents)

    def searched(self, packets: Sequence[Frames], seconds: float) -> list[Frames]:
        """What was `waiting`, now with codes and errors; together ``seconds`` of the signal."""
        errors = [(self.left[:, None] * packet.errors).astype(np.float32) for packet in packets]
        expected = [Frames(packet.codes, error) for packet, error in zip(packets, errors, strict=True)]
        price = DepthLadder(expected, self.bits, self.price).price_within(1000 * self.kbps * seconds)
        least = 2 * np.diff(self.bits, prepend=0) * price / MARGIN
        least[: MIN_DEPTH - 1] = -np.inf
        return self._found(packets, least.tolist())

    def searched_whole(self, packets: Sequence[Frames]) -> list[Frames]:
        """As `searched`, but no frame ends early."""
        return self._found(packets, [-np.inf] * len(self.bits))

    def is_short(self, payloads: Sequence[bytes], seconds: float) -> bool:
        """Whether payloads of what was `searched` leave so much of the rate that frames ended too early."""
        return 8 * sum(map(len, payloads)) < USED * 1000 * self.kbps * seconds

    @torch.inference_mode()
    def _found(self, packets: Sequence[Frames], least: list[float]) -> list[Frames]:
        found: list[Frames] = []
        known = [packet.latents for packet in packets if packet.latents is not None]
        n_together = max(1, GROUP_FRAMES // known[0].shape[1])  # which bounds the memory
        for first in range(0, len(known), n_together):
            some = known[first : first + n_together]
            latents = torch.from_numpy(np.concatenate(some, axis=1)[None])
            parts = self.analysis.searched(latents.to(self.device), least)
            codes, errors = (part[0].cpu().numpy() for part in parts)
            ends = np.cumsum([packet.shape[1] for packet in some])[:-1]
            pairs = zip(
                np.split(codes.astype(np.uint16), ends, axis=1), np.split(errors, ends, axis=1), strict=True
            )
            found += [Frames(codes, errors) for codes, errors in pairs]
        return found


def build_searcher(
    analysis: Analysis, model_folder: Path | None, n_codebooks: int, kbps: float, frame_rate_hz: float
) -> Searcher | None:
    """A searcher for a rate of ``n_codebooks`` stages; None where nearly all of them are needed.

    Raises:
        ModelError: the weights have no prices that a rate could begin from.
    """
    price = price_of(kbps, model_folder)
    assert model_folder is not None
    rates = measured_rates(model_folder)
    if len(rates.left) <= n_codebooks or kbps > LOW * rates.kbps[n_codebooks - 1]:
        return None
    bits = np.array(rates.kbps[:n_codebooks]) * 1000 / frame_rate_hz
    device = next(analysis.encoder.parameters()).device
    return Searcher(analysis, bits, np.array(rates.left[: n_codebooks + 1]), price, kbps, device)
