"""Short-time spectra, mel filter banks and pitch, for losses, metrics and pictures. Door of librosa.

Shapes: B batch, T samples, L frames, F frequency bins, M mel bands.
"""

from functools import lru_cache

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def magnitude_stft(wav: Tensor, n_fft: int, hop: int, window: Tensor) -> Tensor:
    """Magnitudes ``[B, F, L]`` of ``[B, T]``, edges reflected; a full-scale sine reads 0.5 at any FFT size.

    The floor under the root keeps gradients finite on silence.
    """
    spectrum = torch.stft(wav, n_fft, hop, window=window / window.sum(), return_complex=True)
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-14)


def compressed_stft(
    wav: Tensor, n_fft: int, window: Tensor, *, exponent: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Spectrum of ``[B, T]`` whose magnitudes are ``|X|^exponent``, with its phases; four frames to a window.

    Compressed magnitudes weigh a band roughly as loudness does, so that weak bands count.

    Returns:
        Real and imaginary parts ``[B, F, L, 2]``, and magnitudes ``[B, F, L]``.
    """
    spectrum = torch.view_as_real(
        torch.stft(wav, n_fft, n_fft // 4, window=window / window.sum(), return_complex=True)
    )
    size = (spectrum.square().sum(dim=-1) + 1e-10).sqrt()
    compressed = size.pow(exponent)
    return spectrum * (compressed / size)[..., None], compressed


def mel_filters(rate_hz: int, n_fft: int, n_mels: int) -> Tensor:
    """Slaney mel filters ``[M, F]``, each summing to 1: a band reads the mean magnitude of its bins."""
    filters = torch.from_numpy(_mel(rate_hz, n_fft, n_mels))
    return filters / filters.sum(dim=1, keepdim=True).clamp_min(1e-12)


@lru_cache(maxsize=32)
def _mel(rate_hz: int, n_fft: int, n_mels: int) -> NDArray[np.float32]:
    """Of librosa, which takes 50 ms for them: losses of several windows have ten."""
    found: NDArray[np.float32] = librosa.filters.mel(sr=rate_hz, n_fft=n_fft, n_mels=n_mels)
    return found


def log_mel(wav: Tensor, rate_hz: int, *, n_fft: int = 1024, hop: int = 256, n_mels: int = 80) -> Tensor:
    """Picture of a signal: log10 mel magnitudes ``[M, L]`` of ``[T]``."""
    magnitudes = magnitude_stft(wav[None], n_fft, hop, torch.hann_window(n_fft, device=wav.device))[0]
    return torch.log10((mel_filters(rate_hz, n_fft, n_mels).to(wav.device) @ magnitudes).clamp_min(1e-5))


def pitch_hz(wav: NDArray[np.float64], rate_hz: int) -> NDArray[np.float64]:
    """Pitch ``[L]`` of ``[T]`` every 10 ms by pYIN (Mauch 2014), 60 to 500 Hz; nan where unvoiced."""
    pitch, _, _ = librosa.pyin(
        wav,
        fmin=60.0,
        fmax=500.0,
        sr=rate_hz,
        frame_length=round(0.064 * rate_hz),  # four periods of the lowest pitch
        hop_length=round(0.01 * rate_hz),
        resolution=0.2,  # semitones; the default of 0.1 takes three times as long
    )
    found: NDArray[np.float64] = pitch
    return found
