"""Rules on gradients and movement: none, cut, vanishing, exploding, growth behind a clip, standstill."""

import statistics

from telucodec.train.diagnostics.diagnosis import Evidence
from telucodec.train.diagnostics.history import History, Rule

# Of the norm after warmup; healthy: 0.6 to 2.7 for the patience, 0.2 to 7.7 at single steps.
BAND = (0.1, 10.0)
PASSED_ON = 1e-3  # by which the quantizer's Jacobian may differ from the identity
GROWN = 5.0  # times the run's own median; healthy: 1.2, and 3.0 across two changes of the loss weights
AWAY = 0.3  # relative distance from the start of every part; healthy: 0.05 in 50 steps, 0.13 in 6,700
MOVED = 1e-4  # relative distance from the start after `patience` steps; healthy at a rate of 1e-5: 1e-3


def absent(history: History, patience: int) -> Evidence | None:
    """A part that should learn by gradient and gets exactly none; codebooks have a rule of their own."""
    for part in history.plan.learned_by_gradient:
        if part == "quantizer":
            continue
        norms = history.recent(f"grad_norm/{part}", patience)
        if norms and max(norms) == 0.0:
            return {"module": part, "gradient norm": 0.0}
    return None


def vanishing(history: History, patience: int) -> Evidence | None:
    return _outside(history, patience, is_low=True)


def exploding(history: History, patience: int) -> Evidence | None:
    return _outside(history, patience, is_low=False)


def _outside(history: History, patience: int, *, is_low: bool) -> Evidence | None:
    for name in history.names("grad_norm/"):
        norms = history.recent(name, patience)
        usual = history.after_warmup(name) if norms else None
        if not usual:
            continue
        if (is_low and max(norms) < BAND[0] * usual) or (not is_low and min(norms) > BAND[1] * usual):
            module = name.removeprefix("grad_norm/")
            return {"module": module, "gradient norm": norms[-1], "after warmup": usual}
    return None


def cut(history: History, patience: int) -> Evidence | None:
    """The loss reaches the encoder around the quantizer only, or several times through it."""
    gains = history.recent("gradient_gain", patience)
    is_learned = "encoder" in history.plan.learned_by_gradient
    if not gains or not is_learned or min(abs(gain - 1) for gain in gains) <= PASSED_ON:
        return None
    return {"gradient passed on": gains[-1], "expected": 1.0}


def clipped(history: History, patience: int) -> Evidence | None:
    """Always clipped, which AdamW does not mind, and far above what the run had, which the clip hides."""
    norms, limit = history.recent("grad_norm", patience), history.plan.max_grad_norm
    usual = history.before("grad_norm", patience)
    if not norms or usual is None or min(norms) < max(limit, GROWN * usual):
        return None
    return {"gradient norm": statistics.median(norms), "running median": usual, "limit": limit}


def runs_off(history: History, patience: int) -> Evidence | None:
    """Every part is far from its start, and the output is worse than silence: the steps were too large."""
    moved = {name: history.recent(name, patience) for name in history.names("moved/")}
    snr = history.recent("snr_db", patience)
    is_away = moved and all(values and min(values) > AWAY for values in moved.values())
    if not is_away or not snr or max(snr) > 0:
        return None
    nearest = min(values[-1] for values in moved.values())
    return {"relative movement": nearest, "threshold": AWAY, "SNR dB": snr[-1]}


def stands_still(history: History, patience: int) -> Evidence | None:
    """No part has left its start."""
    moved = {name: history.recent(name, patience) for name in history.names("moved/")}
    if not moved or not all(values and max(values) < MOVED for values in moved.values()):
        return None
    farthest = max(values[-1] for values in moved.values())
    return {"relative movement": farthest, "threshold": MOVED, "steps": float(history.step)}


RULES = (
    Rule("no-gradient", ("grad_norm/encoder", "grad_norm/decoder"), 20, absent),
    Rule("straight-through", ("gradient_gain", "grad_norm/encoder"), 20, cut),
    Rule("gradient-vanishing", ("grad_norm/encoder", "grad_norm/decoder"), 100, vanishing),
    Rule("gradient-exploding", ("grad_norm/encoder", "grad_norm/decoder"), 60, exploding),
    Rule("clipping-always", ("grad_norm",), 200, clipped),
    Rule("learning-rate-high", ("moved/encoder", "moved/decoder", "snr_db", "lr"), 20, runs_off),
    Rule("learning-rate-low", ("moved/encoder", "moved/decoder", "lr"), 200, stands_still),
)
