"""Metrics of the waveform: noise, level, offset and delay. numpy alone.

Shapes: T samples.
"""

import math

import numpy as np

from telucodec.evaluate.signals import Exact, Signal, as_pair, energy, ratio_db

MAX_DELAY_S = 0.5  # searched in both directions


def snr_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Signal-to-noise ratio, dB; higher is better. The noise is ``reference - estimate``.

    Gain and delay count as noise. +inf for a perfect estimate, nan for a silent or empty reference.
    """
    wanted, found = as_pair(reference, estimate)
    return ratio_db(energy(wanted), energy(wanted - found))


def si_sdr_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Scale-invariant signal-to-distortion ratio, dB; higher is better.

    Le Roux 2019, arXiv 1811.02508, eq. 4.

    Means are removed first, so neither gain nor offset counts. +inf for a scaled copy, -inf for a
    silent (or unrelated) estimate, nan for a silent or empty reference.
    """
    wanted, found = as_pair(reference, estimate)
    if not wanted.size:
        return math.nan
    wanted, found = wanted - wanted.mean(), found - found.mean()
    total = energy(wanted)
    if total == 0.0:
        return math.nan
    target = float((wanted * found).sum()) / total * wanted
    return ratio_db(energy(target), energy(found - target)) if energy(target) else -math.inf


def range_ratio(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Peak-to-peak range of the estimate over that of the reference; 1 is right, 0 is collapse.

    nan for a reference without range (constant or empty).
    """
    reference, estimate = as_pair(reference, estimate)
    wanted = float(np.ptp(reference)) if reference.size else 0.0
    return float(np.ptp(estimate)) / wanted if wanted else math.nan


def rms_ratio_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Level of the estimate over that of the reference, dB; 0 is right, negative is too quiet.

    -inf for a silent estimate, nan for a silent or empty reference.
    """
    wanted, found = (energy(x) for x in as_pair(reference, estimate))
    if wanted == 0.0:
        return math.nan
    return -ratio_db(wanted, found) if found else -math.inf


def dc_offset(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Mean of the estimate less mean of the reference, full scale 1.0; 0 is right. nan if empty."""
    reference, estimate = as_pair(reference, estimate)
    return float(estimate.mean() - reference.mean()) if reference.size else math.nan


def delay_ms(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """How much later the estimate is, ms: the lag of the highest cross-correlation within half a second.

    0 is right, negative is too early. nan for a silent or empty pair. A codec that does not keep the
    waveform (Codec2) correlates weakly with its input, and its lag is then uncertain by a pitch period.
    """
    lag = delay_samples(*as_pair(reference, estimate), rate_hz)
    return math.nan if lag is None else 1000.0 * lag / rate_hz


def delay_samples(reference: Exact, estimate: Exact, rate_hz: int) -> int | None:
    """The lag behind `delay_ms` for signals of any length; None if it is not defined."""
    if not (reference.size and estimate.size and reference.any() and estimate.any()):
        return None
    longest = round(MAX_DELAY_S * rate_hz)
    n_fft = 1 << (reference.size + estimate.size - 1).bit_length()  # no lag wraps onto another
    product = np.conj(np.fft.rfft(reference, n_fft)) * np.fft.rfft(estimate, n_fft)
    correlation = np.fft.irfft(product, n_fft)
    lags = np.arange(-min(longest, reference.size - 1), min(longest, estimate.size - 1) + 1)
    lags = lags[np.argsort(np.abs(lags), kind="stable")]  # the smallest of equally good ones
    return int(lags[np.argmax(correlation[lags])])


def aligned(reference: Exact, estimate: Exact, lag: int) -> Exact:
    """``estimate`` moved ``lag`` samples earlier, then cut or filled up to the length of the reference."""
    moved = estimate[lag:] if lag >= 0 else np.pad(estimate, (-lag, 0))
    cut = moved[: reference.size]
    return np.pad(cut, (0, reference.size - cut.size))
