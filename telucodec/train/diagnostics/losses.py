"""Rules on loss terms: explosion, rise, one for all, standstill, overfitting, values not finite."""

import math
import statistics

from telucodec.train.diagnostics.diagnosis import Evidence
from telucodec.train.diagnostics.history import History, Rule

EXPLODED, PEAK = 2.5, 50.0  # times the running median: mean of the steps between readings, single step
RISEN, SNR_LOST_DB = 1.4, 2.0  # times the running median; healthy: 1.16 over 60 steps
DOMINANT = 0.9
STILL = 1e-6  # relative spread of a term; a healthy one changes by percents from batch to batch
WORSE, N_WORSE = 1.05, 3  # of the validation metric, in validations
SKIPPED_SHARE = 0.2


def exploded(history: History, patience: int) -> Evidence | None:
    """Far above its own past for the whole patience, or beyond all bounds in one step."""
    usual = history.before("total", patience)
    recent = history.recent("total", patience)
    peaks = history.recent("total_max", 1)
    if usual is None or not recent or usual <= 0:
        return None
    if min(recent) < EXPLODED * usual and not (peaks and peaks[-1] > PEAK * usual):
        return None
    return {"loss": recent[-1], "running median": usual, "threshold": EXPLODED * usual}


def rising(history: History, patience: int) -> Evidence | None:
    """The loss rises and the SNR falls together: the mark of a rate that is too high."""
    loss, snr = history.recent("total", patience), history.recent("snr_db", patience)
    usual_loss, usual_snr = history.before("total", patience), history.before("snr_db", patience)
    if not loss or not snr or usual_loss is None or usual_snr is None:
        return None
    is_rising = min(loss) > RISEN * usual_loss and statistics.median(snr) < usual_snr - SNR_LOST_DB
    if not is_rising:
        return None
    facts = {"loss": statistics.median(loss), "loss before": usual_loss}
    return facts | {"SNR dB": statistics.median(snr), "SNR before dB": usual_snr}


def dominated(history: History, patience: int) -> Evidence | None:
    """One share of the total above nine tenths, all the time."""
    for name in history.names("share/"):
        shares = history.recent(name, patience)
        if shares and min(shares) > DOMINANT and len(history.names("share/")) > 1:
            return {"term": name.removeprefix("share/"), "share": shares[-1], "threshold": DOMINANT}
    return None


def still(history: History, patience: int) -> Evidence | None:
    """A weighted term with the same value on every batch."""
    for name in history.names("share/"):
        term = name.removeprefix("share/")
        values = history.recent(term, patience)
        if values and max(values) - min(values) <= STILL * abs(max(values)):
            return {"term": term, "value": values[-1], "spread": max(values) - min(values)}
    return None


def overfits(history: History, patience: int) -> Evidence | None:
    """Validation worse than its best three times in a row, while the training loss has fallen."""
    metrics = [reading["metric"] for reading in history.validations if "metric" in reading]
    if len(metrics) <= N_WORSE or len(history.readings) < 2 * N_WORSE:
        return None
    best = min(range(len(metrics)), key=metrics.__getitem__)
    worse = metrics[best + 1 :]
    bound = metrics[best] + (WORSE - 1) * abs(metrics[best])
    then = history.validations[best]["step"]
    past = [value for step, value in history.curve("total") if step <= then]
    now = history.recent("total", patience)
    is_learning = past and now and statistics.median(now) < statistics.median(past[-len(now) :])
    if len(worse) < N_WORSE or min(worse[-N_WORSE:]) < bound or not is_learning:
        return None
    return {"validation": metrics[-1], "its best": metrics[best], "at step": then}


def not_finite(history: History, patience: int) -> Evidence | None:
    """Updates skipped one after the other."""
    in_a_row = history.readings[-1].get("bad_in_a_row", 0.0) if history.readings else 0.0
    if in_a_row < history.plan.n_bad_batches:
        return None
    return {"updates skipped in a row": in_a_row, "threshold": float(history.plan.n_bad_batches)}


def underflows(history: History, patience: int) -> Evidence | None:
    """A loss scaler that skips more than now and then."""
    shares = history.recent("overflow_share", patience)
    if not shares or statistics.fmean(shares) < SKIPPED_SHARE:
        return None
    scale = history.readings[-1].get("loss_scale", math.nan)
    return {"share of updates skipped": statistics.fmean(shares), "loss scale": scale}


RULES = (
    Rule("non-finite", ("total", "grad_norm"), 0, not_finite),
    Rule("loss-explosion", ("total", "total_max", "grad_norm"), 40, exploded),
    Rule("learning-rate-high", ("total", "snr_db", "lr"), 60, rising),
    Rule("term-dominates", ("total",), 60, dominated),
    Rule("term-constant", ("total",), 20, still),
    Rule("half-precision-underflow", ("overflow_share", "loss_scale"), 100, underflows),
    Rule("overfitting", ("total",), 100, overfits),
)
