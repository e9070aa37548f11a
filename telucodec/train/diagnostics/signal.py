"""Rules on the level of the output: collapse, saturation, offset, silence.

Thresholds stand beside what healthy runs of this codec showed; the runs are in docs/doctor.md.
"""

import statistics

from telucodec.train.diagnostics.diagnosis import Evidence
from telucodec.train.diagnostics.history import History, Rule

QUIET, SUNK = 0.3, 0.5  # range ratio: healthy readings are 0.84 to 0.94, a small model's from 0.55
LOUD = 1.7
OFFSET = 0.01  # of full scale; healthy: below 0.0007
FLAT_SNR_DB, FLAT_LOSS = 0.5, 0.02
BIG_SCALE, NOISE_SNR_DB = 1.5, 0.0  # healthy: 0.011 to 1.01, and 2.6 dB or more
SMALL_SCALE = 0.003  # healthy: 0.011 to 1


def collapsed(history: History, patience: int) -> Evidence | None:
    """Quiet, or sunk to half of the level the run had."""
    ratios = history.recent("range_ratio", patience)
    if not ratios:
        return None
    earlier = history.before("range_ratio", patience)
    is_sunk = earlier is not None and max(ratios) < SUNK * earlier and max(ratios) < SUNK
    if max(ratios) >= QUIET and not is_sunk:
        return None
    evidence: dict[str, float | str] = {"range ratio": ratios[-1], "threshold": QUIET}
    scales = history.recent("output_scale", patience)
    if scales:
        is_stuck = max(scales) - min(scales) < 1e-4
        evidence["output scale"] = f"{scales[-1]:.4g}{' and not moving' if is_stuck else ''}"
    return evidence


def saturated(history: History, patience: int) -> Evidence | None:
    """Far louder than the input."""
    ratios = history.recent("range_ratio", patience)
    if not ratios or min(ratios) < LOUD:
        return None
    top = history.readings[-1].get("output_max", 0.0)
    return {"range ratio": ratios[-1], "threshold": LOUD, "highest sample": top}


def offset(history: History, patience: int) -> Evidence | None:
    """A mean of the output that keeps its sign and size."""
    means = history.recent("output_dc", patience)
    if not means or min(map(abs, means)) < OFFSET or min(means) < 0 < max(means):
        return None
    return {"mean of the output": statistics.fmean(means), "threshold": OFFSET}


def silent(history: History, patience: int) -> Evidence | None:
    """No signal in the output and no movement of the loss."""
    snr, total = history.recent("snr_db", patience), history.recent("total", patience)
    if not snr or not total or max(map(abs, snr)) > FLAT_SNR_DB:
        return None
    half = len(total) // 2
    early, late = statistics.median(total[:half]), statistics.median(total[half:])
    if abs(late - early) > FLAT_LOSS * abs(early):
        return None
    return {"SNR dB": snr[-1], "change of the loss": late / early - 1, "threshold dB": FLAT_SNR_DB}


def scale_too_big(history: History, patience: int) -> Evidence | None:
    """The output scale multiplies something that is worse than silence: random weights, not a signal."""
    scales, snr = history.recent("output_scale", patience), history.recent("snr_db", patience)
    if not scales or not snr or min(map(abs, scales)) < BIG_SCALE or max(snr) > NOISE_SNR_DB:
        return None
    return {"output scale": scales[-1], "expected": 1.0, "SNR dB": snr[-1], "threshold dB": NOISE_SNR_DB}


def scale_sunk(history: History, patience: int) -> Evidence | None:
    """The output scale is small, whatever the output's level."""
    scales = history.recent("output_scale", patience)
    if not scales or max(map(abs, scales)) >= SMALL_SCALE:
        return None
    return {"output scale": scales[-1], "threshold": SMALL_SCALE}


RULES = (
    Rule("amplitude-collapse", ("range_ratio", "output_scale"), 60, collapsed),
    Rule("output-saturated", ("range_ratio", "output_max"), 40, saturated),
    Rule("dc-offset", ("output_dc",), 60, offset),
    Rule("silent-plateau", ("snr_db", "total"), 150, silent),
    Rule("output-scale", ("output_scale", "snr_db"), 40, scale_too_big),
    Rule("latents-grow", ("output_scale", "commitment"), 100, scale_sunk),
)
