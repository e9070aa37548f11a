"""Figures of a codec on fixed clips during a run: the same metric code as ``telucodec eval``.

Shapes: T samples.
"""

import numpy as np
import torch
from torch import Tensor

from telucodec.evaluate.metrics import range_ratio, snr_db
from telucodec.model.codec import Codec
from telucodec.train.data import Corpus
from telucodec.train.losses import MelLoss

MAX_CLIP_S = 4.0


def validation_clips(corpus: Corpus, n_clips: int) -> list[Tensor]:
    """Up to ``n_clips`` clips ``[T]``, spread evenly over the corpus, each cut to `MAX_CLIP_S`."""
    chosen = np.unique(np.linspace(0, len(corpus.names) - 1, n_clips).round().astype(int))
    return [corpus.clip(int(index))[: round(MAX_CLIP_S * corpus.rate_hz)] for index in chosen]


@torch.no_grad()
def validate(codec: Codec, clips: list[Tensor], kbps: tuple[float, ...], mel: MelLoss) -> dict[str, float]:
    """Means over the clips at each rate: ``valid/{mel,l1,snr_db,range_ratio}@R`` and the output scale."""
    figures: dict[str, list[float]] = {}
    rate_hz = codec.config.sample_rate_hz
    for clip in clips:
        wav = clip.to(codec.decoder.output_scale.device)[None, None]  # [1, 1, T]
        codes = codec.encode(wav)
        for rate in kbps:
            estimate = codec.decode(codes[:, : stages_for(codec, rate)], n_samples=len(clip))
            ours, theirs = estimate[0, 0].cpu().numpy(), clip.numpy()
            values = {
                "mel": mel(estimate[0], wav[0]).item(),
                "l1": float(np.abs(ours - theirs).mean()),
                "snr_db": snr_db(theirs, ours, rate_hz),
                "range_ratio": range_ratio(theirs, ours, rate_hz),
            }
            for name, value in values.items():
                figures.setdefault(f"valid/{name}@{rate:g}", []).append(value)
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    return means | {"valid/output_scale": codec.decoder.output_scale.item()}


def stages_for(codec: Codec, kbps: float) -> int:
    """The most stages whose nominal rate is at most ``kbps``, at least one."""
    stages = int(kbps / codec.config.stage_kbps + 1e-9)
    return max(1, min(codec.config.quantizer.n_codebooks, stages))
