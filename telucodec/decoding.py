"""Codes, or the lack of them, to samples: network, postfilter, refinement, and what bridges lost frames.

Shapes: B batch, T samples, L frames, Q codebooks.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telucodec.bitstream.bitpack import ABSENT, Codes
from telucodec.frames import GROUP_FRAMES
from telucodec.model.codec import Codec, stages_of
from telucodec.model.concealment import N_SLOW, conceal, context_samples, continued, hear, heard_nothing
from telucodec.model.live import Synthesis, live_filter, live_synthesis, synthesis
from telucodec.model.pitch import PitchFilter
from telucodec.model.postfilter import Postfilter, filter_of
from telucodec.nn.recorded import Recorded
from telucodec.prior.layered import N_BASE
from telucodec.refining import refinement_of

FILE_FRAMES = 25  # to a packet: half a second at 50 frames/s; shorter packets are live

Samples = NDArray[np.float32]
"""``[T]``, one channel at the codec's rate, full scale at 1.0."""


class LatentDecoder:
    """Codes, or the lack of them, to samples, and the network's state in between.

    Fast for packets below `FILE_FRAMES` one by one; the weights must then not change. What comes out is
    ``lag`` samples later than a stream's header says; `finish` gives the last of them.
    """

    def __init__(
        self, codec: Codec, n_codebooks: int, frames_per_packet: int, *, has_refinement: bool = False
    ) -> None:
        self._like = like = codec.decoder.output_scale.new_empty(1, 0, 0)
        if has_refinement:
            n_codebooks = min(n_codebooks, N_BASE, codec.config.quantizer.n_codebooks)
        self._n_codebooks = n_codebooks  # of the network
        self._refinement = refinement_of(codec) if has_refinement else None
        if self._refinement is not None:
            self._refined = self._refinement.initial_state(like)
        self._codec = codec
        is_live = frames_per_packet < FILE_FRAMES
        if is_live:
            recorded = live_synthesis(codec, n_codebooks, frames_per_packet)
            self._synthesis: Recorded | Synthesis = recorded
            self._decoder = recorded.network.decoder  # for latents that no codes gave
        else:
            self._synthesis, self._decoder = synthesis(codec), codec.decoder
        postfilter = filter_of(codec, is_live=is_live and not has_refinement)
        self.lag = 0
        self._filter: Recorded | Postfilter | None = postfilter
        self._depth = torch.zeros(1, 1, dtype=torch.int64, device=like.device)  # of the last frame that came
        if postfilter is not None:
            self.lag = 0 if has_refinement else postfilter.delay
            self._filter_state: Any = postfilter.initial_state(like)
            if isinstance(postfilter, PitchFilter) and postfilter.is_live:
                self._filter = live_filter(postfilter, frames_per_packet)
        self._state = codec.decoder.initial_state(like)
        self._heard = heard_nothing(like, codec.config.latent_dim)
        n_context = context_samples(codec.config.hop, codec.config.sample_rate_hz)
        self._wav = np.zeros(n_context, dtype=np.float32)  # the latest samples

    @torch.inference_mode()
    def finish(self) -> Samples:
        """The samples ``[lag]`` that are still to come."""
        hop = self._codec.config.hop
        n_frames = -(-self.lag // hop)
        if not n_frames:
            return np.zeros(0, dtype=np.float32)
        silence, depths = self._like.new_zeros(1, 1, n_frames * hop), self._depth.new_zeros(1, n_frames)
        return self._kept(silence, depths)[: self.lag]

    @torch.inference_mode()
    def decode(self, codes: Codes) -> Samples:
        """Codes ``[Q, L]``, some perhaps `ABSENT`, to ``[L * hop]``."""
        table = torch.from_numpy(np.where(codes != ABSENT, codes, np.int64(-1))[None]).to(self._like.device)
        (wav, latents), self._state = self._synthesis.step(table[:, : self._n_codebooks], self._state)
        self._heard = hear(self._heard, latents)
        depths, behind = stages_of(table[:, : self._n_codebooks]), table[:, self._n_codebooks :]
        self._depth = depths[:, -1:]
        return self._kept(wav, depths, behind if behind.shape[1] else None)

    @torch.inference_mode()
    def bridge(self, n_frames: int, seed: int) -> Samples:
        """``[n_frames * hop]`` in place of frames that are lost."""
        parts = [np.zeros(0, dtype=np.float32)]
        n_left = n_frames
        while n_left and self._heard.n_lost < N_SLOW:  # after that little is left but noise
            latents, self._heard = conceal(self._heard, 1, seed + n_frames - n_left, self._next_signs())
            wav, self._state = self._decoder.step(latents, self._state)
            parts.append(self._kept(wav))
            n_left -= 1
        for start in range(0, n_left, GROUP_FRAMES):
            n_here = min(GROUP_FRAMES, n_left - start)
            latents, self._heard = conceal(self._heard, n_here, seed + n_frames - n_left + start)
            wav, self._state = self._decoder.step(latents, self._state)
            parts.append(self._kept(wav))
        return np.concatenate(parts)

    def _next_signs(self) -> Tensor | None:
        """Signs ``[1, D, 1]`` of the next frame's latents if the sound went on as it was; None without pitch.

        The sound ends one hop before the frame that comes next, because decoding lags by a hop.
        """
        config = self._codec.config
        heard = torch.from_numpy(self._wav).to(self._like.device)
        wav = continued(heard, config.hop + config.delay, config.sample_rate_hz)
        if wav is None:
            return None
        latents: Tensor = self._codec.encoder(wav[None, None])
        return latents[..., -1:].sign()

    def _kept(self, wav: Tensor, depths: Tensor | None = None, behind: Tensor | None = None) -> Samples:
        """Samples of ``[1, 1, T]``, filtered and refined by codes ``behind``; the latest are remembered.

        ``depths`` ``[1, L]`` are the stages of the frames; None: as the last one that came.
        """
        samples: Samples = wav.cpu().numpy()[0, 0]
        n_context = len(self._wav)
        self._wav = np.concatenate([self._wav, samples[-n_context:]])[-n_context:]
        if isinstance(self._filter, Recorded):
            wav, self._filter_state = self._filter.step(wav, self._filter_state)
        elif self._filter is not None:
            n_frames = wav.shape[-1] // self._codec.config.hop
            depths = self._depth.expand(-1, n_frames) if depths is None else depths
            wav, self._filter_state = self._filter.step(wav, self._filter_state, depths)
        if self._refinement is not None:
            wav, self._refined = self._refinement.step(wav, behind, self._refined)
        return np.asarray(wav.cpu().numpy()[0, 0])
