"""Frame arithmetic: how many samples make how many frames, and what padding that costs.

Every length decision in the codec is made here, in integers, so that the encoder, the decoder
and the container header cannot disagree about one sample.

A frame covers ``hop`` samples. The decoder's output lags the encoder's input by ``delay``
samples (the overlap of the lapped transform), so a signal needs enough frames for its last
sample to come out again: ``L = ceil((T + delay) / hop)``. No samples need no frames.

Shapes: B batch, C audio channels, T samples, L frames. T never means frames.
"""

from torch import Tensor
from torch.nn import functional as fn

GROUP_FRAMES = 400  # that the network sees at once where delay does not count


def frame_count(n_samples: int, hop: int, delay: int) -> int:
    """Frames that carry ``n_samples``; the last one may be partly padding."""
    return -(-(n_samples + delay) // hop) if n_samples > 0 else 0


def pad_to_frames(wav: Tensor, hop: int, delay: int) -> Tensor:
    """Zero-pad ``[..., T]`` on the right to ``[..., L * hop]`` with ``L = frame_count(T, hop, delay)``."""
    n_samples = wav.shape[-1]
    return fn.pad(wav, (0, frame_count(n_samples, hop, delay) * hop - n_samples))


def trim_delay(wav: Tensor, n_samples: int, delay: int) -> Tensor:
    """Drop the lag at the start of the decoder's ``[..., L * hop]`` and the padding at its end.

    Returns ``[..., n_samples]``, in which sample ``t`` answers sample ``t`` of the encoder's input.

    Raises:
        ValueError: there are fewer samples than ``delay + n_samples``.
    """
    if n_samples and wav.shape[-1] < delay + n_samples:
        raise ValueError(f"{wav.shape[-1]} decoded samples cannot give {n_samples} after a delay of {delay}")
    return wav[..., delay : delay + n_samples]
