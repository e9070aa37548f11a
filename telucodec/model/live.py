"""The two halves of the codec as streams run them: rounded for encoders of files, recorded for live packets.

What is rounded or recorded is kept, so that only the first session of a codec waits for it, and made again if
its weights have changed since.

Shapes: B batch, T samples, L frames, D latent width, Q codebooks.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from telucodec.model.codec import Codec
from telucodec.model.decoder import Decoder, DecoderState
from telucodec.model.encoder import Encoder, EncoderState
from telucodec.model.pitch import PitchFilter
from telucodec.model.quantizer import ResidualVectorQuantizer
from telucodec.model.search import Stages
from telucodec.nn.packed import packed
from telucodec.nn.recorded import Recorded
from telucodec.nn.rounded import Network, rounded, rounds_fast

N_KEPT = 8  # halves of each kind


class Analysis(nn.Module):
    """Encoder and search for codes in one step."""

    def __init__(
        self, encoder: Encoder, quantizer: ResidualVectorQuantizer, stages: Stages | None, n_codebooks: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self._stages = stages
        self._n_codebooks = n_codebooks

    def step(self, wav: Tensor, state: EncoderState) -> tuple[tuple[Tensor, Tensor, Tensor], EncoderState]:
        """``[B, 1, L * hop]`` to latents ``[B, D, L]``, codes ``[B, Q, L]`` and errors; the next state."""
        latents, state = self.encoder.step(wav, state)
        return (latents, *self.searched(latents)), state

    def searched(self, latents: Tensor, least: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """Latents ``[B, D, L]`` to codes and errors; see `ResidualVectorQuantizer.encode_with_errors`."""
        return self.quantizer.encode_with_errors(latents, self._n_codebooks, stages=self._stages, least=least)


class Synthesis(nn.Module):
    """Codewords and decoder in one step."""

    def __init__(self, quantizer: ResidualVectorQuantizer, decoder: Decoder) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.decoder = decoder

    def step(self, codes: Tensor, state: DecoderState) -> tuple[tuple[Tensor, Tensor], DecoderState]:
        """Codes ``[B, Q, L]``, negative ones absent, to ``[B, 1, L * hop]`` and latents; the next state."""
        latents = self.quantizer.decode(codes)
        wav, state = self.decoder.step(latents, state)
        return (wav, latents), state


def analysis(codec: Codec, n_codebooks: int) -> Analysis:
    """The first half for chunks of many frames, rounded where that is faster."""
    return _analysis(codec, _version(codec), n_codebooks)


def live_analysis(codec: Codec, n_codebooks: int, n_frames: int) -> Recorded:
    """The first half for chunks of ``n_frames``."""
    return _live_analysis(codec, _version(codec), n_codebooks, n_frames)


def synthesis(codec: Codec) -> Synthesis:
    """The second half as it is, for chunks of any size."""
    return Synthesis(codec.quantizer, codec.decoder)


def rounded_synthesis(codec: Codec) -> Synthesis:
    """The second half as an encoder needs it, for chunks of many frames, rounded where that is faster."""
    return _rounded_synthesis(codec, _version(codec))


def live_synthesis(codec: Codec, n_codebooks: int, n_frames: int) -> Recorded:
    """The second half for chunks of ``n_frames``."""
    return _live_synthesis(codec, _version(codec), n_codebooks, n_frames)


@lru_cache(maxsize=N_KEPT)
def live_filter(postfilter: PitchFilter, n_frames: int) -> Recorded:
    """``postfilter`` for chunks of ``n_frames``."""
    wav = postfilter.kernels.new_zeros(1, 1, n_frames * postfilter.hop)
    return Recorded(postfilter, wav, postfilter.initial_state(wav))


@lru_cache(maxsize=N_KEPT)
def _analysis(codec: Codec, version: tuple[int, ...], n_codebooks: int) -> Analysis:
    stages = codec.quantizer.stages(n_codebooks)
    return Analysis(_rounded_encoder(codec, version), codec.quantizer, stages, n_codebooks)


@lru_cache(maxsize=N_KEPT)
def _rounded_encoder(codec: Codec, _: tuple[int, ...]) -> Encoder:
    return _fast(codec.encoder, codec)


@lru_cache(maxsize=N_KEPT)
def _rounded_synthesis(codec: Codec, _: tuple[int, ...]) -> Synthesis:
    return Synthesis(codec.quantizer, _fast(codec.decoder, codec))


def _fast(network: Network, codec: Codec) -> Network:
    return rounded(network) if rounds_fast(codec.decoder.output_scale.device) else network


@lru_cache(maxsize=N_KEPT)
def _live_analysis(codec: Codec, _: tuple[int, ...], n_codebooks: int, n_frames: int) -> Recorded:
    stages = codec.quantizer.stages(n_codebooks, is_packed=True)
    half = Analysis(packed(codec.encoder), codec.quantizer, stages, n_codebooks)
    wav = codec.decoder.output_scale.new_zeros(1, 1, n_frames * codec.config.hop)
    return Recorded(half, wav, codec.encoder.initial_state(wav))


@lru_cache(maxsize=N_KEPT)
def _live_synthesis(codec: Codec, _: tuple[int, ...], n_codebooks: int, n_frames: int) -> Recorded:
    half = Synthesis(codec.quantizer, packed(codec.decoder))
    like = codec.decoder.output_scale
    codes = torch.zeros(1, n_codebooks, n_frames, dtype=torch.int64, device=like.device)
    return Recorded(half, codes, codec.decoder.initial_state(like.new_empty(1, 0, 0)))


def _version(codec: Codec) -> tuple[int, ...]:
    """Another one whenever a weight was changed or moved, or the search for codes."""
    # Twice as fast as parameters() and buffers(), which look for tensors that are shared.
    kept = [tensors for module in codec.modules() for tensors in (module._parameters, module._buffers)]
    weights = [weight for tensors in kept for weight in tensors.values() if weight is not None]
    changes = [0 if weight.is_inference() else weight._version for weight in weights]
    return (codec.quantizer.search_width, *changes, *(weight.data_ptr() for weight in weights))
