"""What stands between a decoder and a listener, or a refinement: an enhancer, a filter, or nothing."""

from functools import lru_cache

import torch

from telucodec.model.codec import Codec
from telucodec.model.enhancer import Enhancer
from telucodec.model.lattice import LatticeQuantizer
from telucodec.model.pitch import PitchFilter

Postfilter = Enhancer | PitchFilter


def filter_of(codec: Codec, *, is_live: bool = False) -> Postfilter | None:
    """The enhancer of ``codec``, if it has learned one, or else a filter; None behind a lattice.

    A lattice keeps the waveform, and live packets cannot wait for what an enhancer has to know.
    """
    if isinstance(codec.quantizer, LatticeQuantizer):
        return None
    if codec.enhancer is not None and not is_live:
        return codec.enhancer
    config = codec.config
    return _filter(config.hop, config.sample_rate_hz, is_live, codec.decoder.output_scale.device)


@lru_cache(maxsize=8)
def _filter(hop: int, sample_rate_hz: int, is_live: bool, device: torch.device) -> PitchFilter:
    """One for all streams of these shapes."""
    return PitchFilter(hop=hop, sample_rate_hz=sample_rate_hz, is_live=is_live).to(device)
