"""How far an estimate is from its reference: pure functions on two signals.

Every metric is ``(reference, estimate, rate_hz) -> float`` on float arrays ``[T]`` of equal length,
full scale 1.0, computed in float64. Each has its natural sign (nothing is negated to become a
loss) and its unit in the name. What cannot be computed is never a made-up number:

* nan: undefined for these signals (empty, or silent where energy would be a divisor);
* +inf or -inf: the limit of the formula (a perfect estimate, a silent estimate);
* `MetricUnavailable`: the metric cannot run at all, with the reason (a package that is not
  installed, a clip too short for the standard). `measure` turns it into an entry of ``missing``.

Packages of the ``[eval]`` extra are imported where they are used, so everything else runs without them.

Shapes: T samples.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telucodec.errors import TelucodecError

Signal = NDArray[np.floating[Any]]
Metric = Callable[[Signal, Signal, int], float]

PESQ_RATE_HZ = 16_000
STOI_MIN_S = 0.4  # 30 frames of 12.8 ms, the segment of Taal 2011
STOI_TOO_SHORT = 1e-5  # what pystoi returns in place of a score
STFT_EPS = 1e-8  # floor of the power spectrum: -80 dB
STFT_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # FFT size, hop, window


class MetricUnavailable(TelucodecError):
    """A metric cannot be computed here; the message is the reason, fit to be shown in a table."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Every metric of one pair of signals, either as a value or as the reason for its absence."""

    values: dict[str, float]
    missing: dict[str, str]


def snr_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Signal-to-noise ratio, dB; higher is better. The noise is ``reference - estimate``.

    Gain and delay count as noise. +inf for a perfect estimate, nan for a silent or empty reference.
    """
    reference, estimate = _as_pair(reference, estimate)
    return _ratio_db(_energy(reference), _energy(reference - estimate))


def si_sdr_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Scale-invariant signal-to-distortion ratio, dB; higher is better.

    Le Roux 2019, arXiv 1811.02508, eq. 4.

    Means are removed first, so neither gain nor offset counts. +inf for a scaled copy, -inf for a
    silent (or unrelated) estimate, nan for a silent or empty reference.
    """
    reference, estimate = _as_pair(reference, estimate)
    if not reference.size:
        return math.nan
    reference = reference - reference.mean()
    estimate = estimate - estimate.mean()
    energy = _energy(reference)
    if energy == 0.0:
        return math.nan
    target = float(reference @ estimate) / energy * reference
    if not _energy(target):
        return -math.inf
    return _ratio_db(_energy(target), _energy(estimate - target))


def range_ratio(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Peak-to-peak range of the estimate over that of the reference; 1 is right, 0 is collapse.

    nan for a reference without range (constant or empty).
    """
    reference, estimate = _as_pair(reference, estimate)
    wanted = float(np.ptp(reference)) if reference.size else 0.0
    return float(np.ptp(estimate)) / wanted if wanted else math.nan


def rms_ratio_db(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Level of the estimate over that of the reference, dB; 0 is right, negative is too quiet.

    -inf for a silent estimate, nan for a silent or empty reference.
    """
    reference, estimate = _as_pair(reference, estimate)
    energy = _energy(reference)
    if energy == 0.0:
        return math.nan
    return -_ratio_db(energy, _energy(estimate)) if _energy(estimate) else -math.inf


def dc_offset(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Mean of the estimate less mean of the reference, full scale 1.0; 0 is right. nan if empty."""
    reference, estimate = _as_pair(reference, estimate)
    return float(estimate.mean() - reference.mean()) if reference.size else math.nan


def mrstft_distance(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Multi-resolution STFT distance; lower is better, 0 for equal signals.

    Spectral convergence plus mean absolute difference of natural log magnitudes, averaged over
    three resolutions (Yamamoto 2020, arXiv 1910.11480, eqs. 3 to 6), with the defaults of the
    auraloss package, which the training loss uses; written here so that measuring needs neither
    auraloss nor torch. Sizes are in samples whatever the rate: compare at one rate only.
    Signals under 2048 samples are padded with zeros; nan for an empty pair.
    """
    reference, estimate = _as_pair(reference, estimate)
    if not reference.size:
        return math.nan
    longest = max(n_fft for n_fft, _, _ in STFT_RESOLUTIONS)
    padding = (0, max(0, longest - reference.size))
    reference, estimate = np.pad(reference, padding), np.pad(estimate, padding)
    distances = []
    for n_fft, hop, window in STFT_RESOLUTIONS:
        wanted = _magnitudes(reference, n_fft, hop, window)
        found = _magnitudes(estimate, n_fft, hop, window)
        convergence = np.linalg.norm(wanted - found) / np.linalg.norm(wanted)
        distances.append(float(convergence + np.abs(np.log(wanted) - np.log(found)).mean()))
    return sum(distances) / len(distances)


def pesq_wb(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2), MOS-LQO from 1.04 to 4.64; higher is better.

    Signals at another rate are resampled to 16 kHz. Not sensitive to level.

    Raises:
        MetricUnavailable: the ``pesq`` package is missing, either signal is silent, or the clip is
            shorter than the standard allows (0.25 s).
    """
    reference, estimate = _as_pair(reference, estimate)
    try:
        from pesq import PesqError, pesq
    except ImportError as error:
        raise MetricUnavailable(_install_hint("pesq")) from error
    _refuse_silence(reference, estimate)
    if rate_hz != PESQ_RATE_HZ:
        reference, estimate = (_resample(x, rate_hz, PESQ_RATE_HZ) for x in (reference, estimate))
    try:
        return float(pesq(PESQ_RATE_HZ, reference, estimate, "wb"))
    except (PesqError, ValueError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise MetricUnavailable(f"PESQ refused the clip: {text}") from error


def stoi(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Short-time objective intelligibility (Taal 2011), about 0 to 1; higher is better.

    Raises:
        MetricUnavailable: the ``pystoi`` package is missing, either signal is silent, or less than
            0.4 s of the clip is speech.
    """
    reference, estimate = _as_pair(reference, estimate)
    try:
        from pystoi import stoi as pystoi
    except ImportError as error:
        raise MetricUnavailable(_install_hint("pystoi")) from error
    _refuse_silence(reference, estimate)
    if reference.size < STOI_MIN_S * rate_hz:
        raise MetricUnavailable(
            f"STOI needs {STOI_MIN_S} s of speech, the clip has {reference.size / rate_hz:.2f} s"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Not enough STFT frames", category=RuntimeWarning)
        value = float(pystoi(reference, estimate, rate_hz))
    if value == STOI_TOO_SHORT:
        raise MetricUnavailable(f"STOI needs {STOI_MIN_S} s of speech, less is left without the pauses")
    return value


METRICS: dict[str, Metric] = {
    "snr_db": snr_db,
    "si_sdr_db": si_sdr_db,
    "range_ratio": range_ratio,
    "rms_ratio_db": rms_ratio_db,
    "dc_offset": dc_offset,
    "mrstft_distance": mrstft_distance,
    "pesq_wb": pesq_wb,
    "stoi": stoi,
}


def measure(reference: Signal, estimate: Signal, rate_hz: int) -> Measured:
    """Every metric of `METRICS`: each name ends up in ``values`` or, with its reason, in ``missing``."""
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, metric in METRICS.items():
        try:
            values[name] = metric(reference, estimate, rate_hz)
        except MetricUnavailable as reason:
            missing[name] = str(reason)
    return Measured(values, missing)


def _as_pair(reference: Signal, estimate: Signal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if reference.ndim != 1 or reference.shape != estimate.shape:
        raise ValueError(
            f"reference {reference.shape} and estimate {estimate.shape} must be [T], equally long"
        )
    return reference.astype(np.float64), estimate.astype(np.float64)


def _energy(x: Signal) -> float:
    return float(x @ x)


def _ratio_db(above: float, below: float) -> float:
    """``10 log10(above / below)``; nan when nothing is above, inf when nothing is below."""
    if not above:
        return math.nan
    return 10.0 * math.log10(above / below) if below else math.inf


def _magnitudes(x: Signal, n_fft: int, hop: int, n_window: int) -> NDArray[np.float64]:
    """``[T]`` -> ``[n_fft / 2 + 1, frames]``: centered frames, reflected edges, periodic Hann window."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_window) / n_window)
    left = (n_fft - n_window) // 2
    window = np.pad(window, (left, n_fft - n_window - left))
    x = np.pad(x, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[::hop]
    spectrum = np.fft.rfft(frames * window, axis=-1).T
    magnitudes: NDArray[np.float64] = np.sqrt(np.maximum(spectrum.real**2 + spectrum.imag**2, STFT_EPS))
    return magnitudes


def _refuse_silence(reference: NDArray[np.float64], estimate: NDArray[np.float64]) -> None:
    for name, x in (("reference", reference), ("estimate", estimate)):
        if not x.size:
            raise MetricUnavailable("the clip is empty")
        if not x.any():
            raise MetricUnavailable(f"the {name} is silent")


def _install_hint(package: str) -> str:
    return f'the package {package} is not installed; pip install -e ".[eval]"'


def _resample(x: NDArray[np.float64], from_hz: int, to_hz: int) -> NDArray[np.float64]:
    """Through the one resampler of the project; imported here because it brings torch along."""
    from torch import from_numpy

    from telucodec.audio import resample

    y: NDArray[np.float64] = resample(from_numpy(x), from_hz, to_hz).numpy()
    return y
