"""How far an estimate is from its reference: every metric by name, and all of them on a pair.

Every metric is a pure function ``(reference, estimate, rate_hz) -> float`` on float arrays ``[T]`` of
equal length, full scale 1.0, computed in float64. Each has its natural sign (nothing is negated to become
a loss) and its unit in the name. What cannot be computed is never a made-up number:

* nan: undefined for these signals (empty, or silent where energy would be a divisor);
* +inf or -inf: the limit of the formula (a perfect estimate, a silent estimate);
* `MetricUnavailable`: the metric cannot run at all, with the reason (a package that is not
  installed, a clip too short for the standard). `measure` turns it into an entry of ``missing``.

Shapes: T samples.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from telucodec.errors import ConfigError
from telucodec.evaluate.perceptual import estoi, pesq_nb, pesq_wb, stoi, visqol
from telucodec.evaluate.signals import Metric, MetricUnavailable, Signal
from telucodec.evaluate.spectra import (
    f0_error_cents,
    lsd_db,
    mel_distance_db,
    mrstft_distance,
    voicing_error,
)
from telucodec.evaluate.waveform import (
    aligned,
    dc_offset,
    delay_ms,
    delay_samples,
    range_ratio,
    rms_ratio_db,
    si_sdr_db,
    snr_db,
)

METRICS: dict[str, Metric] = {
    "snr_db": snr_db,
    "si_sdr_db": si_sdr_db,
    "range_ratio": range_ratio,
    "rms_ratio_db": rms_ratio_db,
    "dc_offset": dc_offset,
    "delay_ms": delay_ms,
    "lsd_db": lsd_db,
    "mrstft_distance": mrstft_distance,
    "mel_distance_db": mel_distance_db,
    "pesq_wb": pesq_wb,
    "pesq_nb": pesq_nb,
    "stoi": stoi,
    "estoi": estoi,
    "visqol": visqol,
    "f0_error_cents": f0_error_cents,
    "voicing_error": voicing_error,
}
SLOW = {"pesq_nb", "visqol", "f0_error_cents", "voicing_error"}  # together four times the time of the rest
FAST = tuple(name for name in METRICS if name not in SLOW)


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of one pair of signals, each either as a value or as the reason for its absence."""

    values: dict[str, float]
    missing: dict[str, str]


def choose_metrics(wanted: Iterable[str]) -> tuple[str, ...]:
    """Names from names and the groups ``fast`` and ``all``, in the order of `METRICS`.

    Raises:
        ConfigError: a name that is neither.
    """
    chosen: set[str] = set()
    groups = {"fast": FAST, "all": tuple(METRICS)}
    for name in wanted:
        if name not in METRICS and name not in groups:
            near = difflib.get_close_matches(name, [*METRICS, *groups], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"no metric {name!r}{hint} Expected fast, all or: {', '.join(METRICS)}")
        chosen.update(groups.get(name, (name,)))
    return tuple(name for name in METRICS if name in chosen)


def measure(reference: Signal, estimate: Signal, rate_hz: int, names: Sequence[str] = FAST) -> Measured:
    """The metrics ``names``: each of them ends up in ``values`` or, with its reason, in ``missing``."""
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            values[name] = METRICS[name](reference, estimate, rate_hz)
        except MetricUnavailable as reason:
            missing[name] = str(reason)
    return Measured(values, missing)


def measure_aligned(
    reference: Signal, estimate: Signal, rate_hz: int, names: Sequence[str] = FAST
) -> Measured:
    """`measure` after the estimate's delay is taken back; the estimate may be of any length.

    ``delay_ms``, if asked for, is the delay that was found and taken back.
    """
    wanted, found = reference.astype(np.float64), estimate.astype(np.float64)
    lag = delay_samples(wanted, found, rate_hz)
    measured = measure(wanted, aligned(wanted, found, lag or 0), rate_hz, names)
    if "delay_ms" in names:
        measured.values["delay_ms"] = math.nan if lag is None else 1000.0 * lag / rate_hz
    return measured


__all__ = [
    "FAST",
    "METRICS",
    "Measured",
    "MetricUnavailable",
    "Signal",
    "choose_metrics",
    "dc_offset",
    "delay_ms",
    "estoi",
    "f0_error_cents",
    "lsd_db",
    "measure",
    "measure_aligned",
    "mel_distance_db",
    "mrstft_distance",
    "pesq_nb",
    "pesq_wb",
    "range_ratio",
    "rms_ratio_db",
    "si_sdr_db",
    "snr_db",
    "stoi",
    "visqol",
    "voicing_error",
]
