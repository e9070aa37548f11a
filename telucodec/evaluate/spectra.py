"""Metrics of the spectrum: distances between short-time spectra, and of the pitch.

Shapes: T samples, F frequency bins, M mel bands, L frames.
"""

import math
from functools import lru_cache

import numpy as np

from telucodec.evaluate.signals import (
    Exact,
    MetricUnavailable,
    Signal,
    as_pair,
    install_hint,
    refuse_silence,
)

STFT_EPS = 1e-8  # floor of the power spectrum: -80 dB
STFT_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # FFT size, hop, window
QUIETEST = 1e-5  # floor of magnitudes where a full-scale sine reads 0.5: -94 dB below it
LSD_WINDOW_S, LSD_HOP_S = 0.032, 0.008
N_MELS = 80
PITCH_MIN_S = 0.1


def mrstft_distance(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Multi-resolution STFT distance; lower is better, 0 for equal signals.

    Spectral convergence plus mean absolute difference of natural log magnitudes, averaged over
    three resolutions (Yamamoto 2020, arXiv 1910.11480, eqs. 3 to 6), with the defaults of the
    auraloss package, which the training loss uses; written here so that measuring needs neither
    auraloss nor torch. Sizes are in samples whatever the rate: compare at one rate only.
    Signals under 2048 samples are padded with zeros; nan for an empty pair.
    """
    reference, estimate = as_pair(reference, estimate)
    if not reference.size:
        return math.nan
    distances = []
    reference, estimate = (
        _at_least(x, max(n_fft for n_fft, _, _ in STFT_RESOLUTIONS)) for x in (reference, estimate)
    )
    for n_fft, hop, n_window in STFT_RESOLUTIONS:
        window = _hann(n_window, n_fft)
        wanted = _magnitudes(reference, window, hop, STFT_EPS)
        found = _magnitudes(estimate, window, hop, STFT_EPS)
        convergence = np.linalg.norm(wanted - found) / np.linalg.norm(wanted)
        distances.append(float(convergence + np.abs(np.log(wanted) - np.log(found)).mean()))
    return sum(distances) / len(distances)


def lsd_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Log-spectral distance, dB; lower is better, 0 for equal signals (Gray 1976, with p = 2).

    Root of the mean square difference of the log power spectra over the bins of a frame, averaged over
    frames of 32 ms every 8 ms; bins more than 94 dB below a full-scale sine count as that low, in
    either signal. nan for an empty pair.
    """
    reference, estimate = as_pair(reference, estimate)
    if not reference.size:
        return math.nan
    n_fft, hop = round(LSD_WINDOW_S * rate_hz), round(LSD_HOP_S * rate_hz)
    wanted, found = (_level_db(x, n_fft, hop) for x in (reference, estimate))
    return float(np.sqrt(np.square(wanted - found).mean(axis=0)).mean())


def mel_distance_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Mean absolute difference of log mel spectra, dB; lower is better, 0 for equal signals.

    80 Slaney bands, frames of 1024 samples every 256, bands floored as the bins of `lsd_db`. Sizes are in
    samples whatever the rate: compare at one rate only. nan for an empty pair.

    Raises:
        MetricUnavailable: the ``librosa`` package is missing.
    """
    reference, estimate = as_pair(reference, estimate)
    if not reference.size:
        return math.nan
    n_fft, hop = 1024, 256
    filters = _mel_filters(rate_hz, n_fft)
    window = _hann(n_fft, n_fft)
    wanted, found = (
        np.maximum(filters @ _magnitudes(_at_least(x, n_fft), window / window.sum(), hop, 0.0), QUIETEST)
        for x in (reference, estimate)
    )
    return float(20.0 * np.abs(np.log10(wanted) - np.log10(found)).mean())


def f0_error_cents(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Root mean square difference of the pitch, in cents, over frames where both are voiced.

    Lower is better; 100 cents are a semitone, and one octave error in a hundred frames already gives 120.
    The tracker is pYIN (Mauch 2014) of librosa: 60 to 500 Hz in steps of 20 cents, every 10 ms.

    Raises:
        MetricUnavailable: the ``librosa`` package is missing, either signal is silent, the clip is shorter
            than 0.1 s, or no frame is voiced in both.
    """
    wanted, found = _pitches(reference, estimate, rate_hz)
    both = ~(np.isnan(wanted) | np.isnan(found))
    if not both.any():
        raise MetricUnavailable("no frame is voiced in both signals")
    return float(1200.0 * np.sqrt(np.square(np.log2(found[both] / wanted[both])).mean()))


def voicing_error(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Share of the frames, 0 to 1, that are voiced in one signal and not in the other; lower is better.

    The tracker, and what is raised, are those of `f0_error_cents`; frames voiced in neither are right.
    """
    wanted, found = _pitches(reference, estimate, rate_hz)
    return float((np.isnan(wanted) != np.isnan(found)).mean())


def _pitches(reference: Signal, estimate: Signal, rate_hz: int) -> tuple[Exact, Exact]:
    """Hz ``[L]`` of both signals, nan where unvoiced."""
    reference, estimate = as_pair(reference, estimate)
    refuse_silence(reference, estimate)
    if reference.size < PITCH_MIN_S * rate_hz:
        raise MetricUnavailable(
            f"pitch needs {PITCH_MIN_S} s of sound, the clip has {reference.size / rate_hz:.2f} s"
        )
    return _pitch(reference.tobytes(), rate_hz), _pitch(estimate.tobytes(), rate_hz)


@lru_cache(maxsize=4)
def _pitch(samples: bytes, rate_hz: int) -> Exact:
    """The track of a signal is wanted by two metrics, and that of a reference at every rate."""
    try:
        from telucodec.spectral import pitch_hz
    except ImportError as error:
        raise MetricUnavailable(install_hint("librosa")) from error
    return pitch_hz(np.frombuffer(samples), rate_hz)


@lru_cache(maxsize=4)
def _mel_filters(rate_hz: int, n_fft: int) -> Exact:
    try:
        from telucodec.spectral import mel_filters
    except ImportError as error:
        raise MetricUnavailable(install_hint("librosa")) from error
    filters: Exact = mel_filters(rate_hz, n_fft, N_MELS).numpy().astype(np.float64)
    return filters


def _level_db(x: Exact, n_fft: int, hop: int) -> Exact:
    """``[T]`` -> ``[F, L]``, dB."""
    window = _hann(n_fft, n_fft)
    level: Exact = 20.0 * np.log10(_magnitudes(_at_least(x, n_fft), window / window.sum(), hop))
    return level


def _at_least(x: Exact, n_samples: int) -> Exact:
    return np.pad(x, (0, max(0, n_samples - x.size)))


def _hann(n_window: int, n_fft: int) -> Exact:
    """A periodic Hann window in the middle of ``n_fft`` samples."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_window) / n_window)
    left = (n_fft - n_window) // 2
    return np.pad(window, (left, n_fft - n_window - left))


def _magnitudes(x: Exact, window: Exact, hop: int, least_power: float = QUIETEST**2) -> Exact:
    """``[T]`` -> ``[F, L]``: centered frames, reflected edges, never below the root of ``least_power``."""
    n_fft = window.size
    x = np.pad(x, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[::hop]
    spectrum = np.fft.rfft(frames * window, axis=-1).T
    magnitudes: Exact = np.sqrt(np.maximum(spectrum.real**2 + spectrum.imag**2, least_power))
    return magnitudes
