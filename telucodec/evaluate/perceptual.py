"""Metrics of what is heard, each from its standard package: PESQ, STOI and ViSQOL. Door of the three.

The packages belong to the ``[eval]`` extra and are imported where they are used, so everything else runs
without them.

Shapes: T samples.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from telucodec.evaluate.signals import (
    MetricUnavailable,
    Signal,
    as_pair,
    at_rate,
    install_hint,
    refuse_silence,
)

WIDE_HZ, NARROW_HZ = 16_000, 8_000
STOI_MIN_S = 0.4  # 30 frames of 12.8 ms, the segment of Taal 2011
STOI_TOO_SHORT = 1e-5  # what pystoi returns in place of a score
VISQOL_MIN_S = 0.5  # below, no patch of 20 frames that holds speech is left


def pesq_wb(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2), MOS-LQO from 1.04 to 4.64; higher is better.

    Signals at another rate are resampled to 16 kHz. Not sensitive to level.

    Raises:
        MetricUnavailable: the ``pesq`` package is missing, either signal is silent, or the clip is
            shorter than the standard allows (0.25 s).
    """
    return _pesq(reference, estimate, rate_hz, WIDE_HZ, "wb")


def pesq_nb(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Narrow-band PESQ (ITU-T P.862.1), MOS-LQO from 1.02 to 4.55; higher is better.

    Signals at another rate are resampled to 8 kHz, the telephone band. Raises as `pesq_wb`.
    """
    return _pesq(reference, estimate, rate_hz, NARROW_HZ, "nb")


def stoi(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Short-time objective intelligibility (Taal 2011), about 0 to 1; higher is better.

    Raises:
        MetricUnavailable: the ``pystoi`` package is missing, either signal is silent, or less than
            0.4 s of the clip is speech.
    """
    return _stoi(reference, estimate, rate_hz, is_extended=False)


def estoi(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """Extended STOI (Jensen 2016), about 0 to 1; higher is better. Raises as `stoi`."""
    return _stoi(reference, estimate, rate_hz, is_extended=True)


def visqol(reference: Signal, estimate: Signal, rate_hz: int) -> float:
    """ViSQOL in speech mode (Chinen 2020, arXiv 2004.09584), MOS-LQO from 1 to 5; higher is better.

    Mapped by the lattice network, the default of version 3. Signals at another rate are resampled to
    16 kHz. The package looks for a delay of its own.

    Raises:
        MetricUnavailable: the ``visqol-python`` package or its ``lattice`` extra is missing, either signal
            is silent, or the clip is shorter than 0.5 s or holds no speech.
    """
    reference, estimate = as_pair(reference, estimate)
    scorer = _visqol_scorer()
    refuse_silence(reference, estimate)
    if reference.size < VISQOL_MIN_S * rate_hz:
        raise MetricUnavailable(
            f"ViSQOL needs {VISQOL_MIN_S} s of speech, the clip has {reference.size / rate_hz:.2f} s"
        )
    reference, estimate = (at_rate(x, rate_hz, WIDE_HZ) for x in (reference, estimate))
    try:
        return float(scorer.measure_from_arrays(reference, estimate, WIDE_HZ).moslqo)
    except ValueError as error:
        raise MetricUnavailable(f"ViSQOL refused the clip: {error}") from error


@lru_cache(maxsize=1)
def _visqol_scorer() -> Any:
    """Loading its network takes longer than most clips."""
    try:
        from visqol import VisqolApi

        scorer = VisqolApi()
        scorer.create(mode="speech", use_lattice_model=True)
    except ImportError as error:
        raise MetricUnavailable(install_hint("visqol-python[lattice]")) from error
    return scorer


@contextmanager
def _seeded() -> Iterator[None]:
    """pystoi adds a trace of numpy's global noise to ESTOI: the same clip is to give the same figure."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def _pesq(reference: Signal, estimate: Signal, rate_hz: int, wanted_hz: int, band: str) -> float:
    reference, estimate = as_pair(reference, estimate)
    try:
        from pesq import PesqError, pesq
    except ImportError as error:
        raise MetricUnavailable(install_hint("pesq")) from error
    refuse_silence(reference, estimate)
    reference, estimate = (at_rate(x, rate_hz, wanted_hz) for x in (reference, estimate))
    try:
        return float(pesq(wanted_hz, reference, estimate, band))
    except (PesqError, ValueError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise MetricUnavailable(f"PESQ refused the clip: {text}") from error


def _stoi(reference: Signal, estimate: Signal, rate_hz: int, *, is_extended: bool) -> float:
    reference, estimate = as_pair(reference, estimate)
    try:
        from pystoi import stoi as pystoi
    except ImportError as error:
        raise MetricUnavailable(install_hint("pystoi")) from error
    refuse_silence(reference, estimate)
    if reference.size < STOI_MIN_S * rate_hz:
        raise MetricUnavailable(
            f"STOI needs {STOI_MIN_S} s of speech, the clip has {reference.size / rate_hz:.2f} s"
        )
    with warnings.catch_warnings(), _seeded():
        warnings.filterwarnings("ignore", message="Not enough STFT frames", category=RuntimeWarning)
        value = float(pystoi(reference, estimate, rate_hz, extended=is_extended))
    if value == STOI_TOO_SHORT:
        raise MetricUnavailable(f"STOI needs {STOI_MIN_S} s of speech, less is left without the pauses")
    return value
