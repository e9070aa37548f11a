"""Audio that a page carries: FLAC as data URIs, gains that make takes equally loud, and the low anchor.

What is embedded is the decoded signal as 16-bit samples, losslessly: nothing between codec and listener
but the gain, which the player applies and the page can switch off.

Shapes: T samples.
"""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import soundfile

from telucodec.evaluate.listening.clip import Signal

LOW_ANCHOR_HZ = 3_500  # the pass band of the low anchor in ITU-R BS.1534-3
_CUTOFF_HZ = LOW_ANCHOR_HZ + 160  # where the filter is 6 dB down
_FRAME_S = 0.02
_ACTIVE_DB = -40.0  # frames this far below the loudest one of the reference count as pauses
_MOST_GAIN_DB = 20.0
_HEADROOM = 0.98
_HALF_TAPS = 127
_KAISER_BETA = 8.0  # side lobes 80 dB down


def flac_uri(wav: Signal, rate_hz: int) -> str:
    """``[T]`` as 16-bit FLAC in a data URI; what lies outside full scale is clipped."""
    pcm = np.rint(wav.astype(np.float64) * 32_768).clip(-32_768, 32_767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, pcm, rate_hz, subtype="PCM_16", format="FLAC", compression_level=1.0)
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def matching_gains_db(takes: Sequence[Signal], rate_hz: int) -> list[float]:
    """The gain of each take, dB, that makes it as loud as the first without clipping any of them.

    Loudness is the RMS over frames of 20 ms in which the first take is within 40 dB of its loudest frame, so
    that noise in pauses is not taken for speech. A gain is at most 20 dB either way; a silent take keeps
    its level. If the loudest peak would exceed full scale, all are turned down alike.
    """
    frames = _frame_power(takes[0], rate_hz)
    is_active = frames >= frames.max() * 10.0 ** (_ACTIVE_DB / 10.0)
    levels = [float(_frame_power(take, rate_hz)[is_active].mean()) for take in takes]
    gains = [
        float(np.clip(10.0 * math.log10(levels[0] / level), -_MOST_GAIN_DB, _MOST_GAIN_DB))
        if level > 0.0 and levels[0] > 0.0
        else 0.0
        for level in levels
    ]
    peaks = [float(np.abs(take).max()) for take in takes]
    peak = max(peak * 10.0 ** (gain / 20.0) for peak, gain in zip(peaks, gains, strict=True))
    excess = max(0.0, 20.0 * math.log10(peak / _HEADROOM)) if peak > 0.0 else 0.0
    return [gain - excess for gain in gains]


def low_anchor(wav: Signal, rate_hz: int) -> Signal:
    """``[T]`` without what lies above 3.5 kHz: no delay; at 16 kHz, 70 dB down from 3.9 kHz on."""
    taps = np.arange(-_HALF_TAPS, _HALF_TAPS + 1)
    cutoff = min(1.0, 2.0 * _CUTOFF_HZ / rate_hz)
    kernel = cutoff * np.sinc(cutoff * taps) * np.kaiser(taps.size, _KAISER_BETA)
    whole = np.convolve(wav.astype(np.float64), kernel / kernel.sum())
    filtered: Signal = whole[_HALF_TAPS : _HALF_TAPS + wav.size].astype(np.float32)
    return filtered


def _frame_power(wav: Signal, rate_hz: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Mean square of each frame of 20 ms, the last one padded with zeros."""
    n_frame = max(1, round(_FRAME_S * rate_hz))
    padded = np.pad(wav.astype(np.float64), (0, -wav.size % n_frame)).reshape(-1, n_frame)
    power: np.ndarray[tuple[int], np.dtype[np.float64]] = (padded**2).mean(axis=1)
    return power
