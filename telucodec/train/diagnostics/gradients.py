"""Rules on gradients and movement: none, vanishing, exploding, always clipped, standing still."""

import statistics

from telucodec.train.diagnostics.diagnosis import Evidence
from telucodec.train.diagnostics.history import History, Rule

BAND = (0.1, 10.0)  # of the norm after warmup; healthy: 0.5 to 5 in readings, one of 200 at a single step
CLIPPED = 30.0  # times the limit; healthy: 4 to 8, for the default's gradients are all clipped
MOVED = 1e-4  # relative distance from the start after `patience` steps; healthy at a rate of 1e-5: 1e-3


def absent(history: History, patience: int) -> Evidence | None:
    """A part that should learn by gradient and gets exactly none."""
    for part in history.plan.learned_by_gradient:
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


def clipped(history: History, patience: int) -> Evidence | None:
    """The norm is far above the limit at every step."""
    norms, limit = history.recent("grad_norm", patience), history.plan.max_grad_norm
    if not norms or min(norms) < CLIPPED * limit:
        return None
    return {"gradient norm": statistics.median(norms), "limit": limit, "threshold": CLIPPED * limit}


def stands_still(history: History, patience: int) -> Evidence | None:
    """No part has left its start."""
    moved = {name: history.recent(name, patience) for name in history.names("moved/")}
    if not moved or not all(values and max(values) < MOVED for values in moved.values()):
        return None
    farthest = max(values[-1] for values in moved.values())
    return {"relative movement": farthest, "threshold": MOVED, "steps": float(history.step)}


RULES = (
    Rule("no-gradient", ("grad_norm/encoder", "grad_norm/decoder", "grad_norm/quantizer"), 20, absent),
    Rule("gradient-vanishing", ("grad_norm/encoder", "grad_norm/decoder"), 100, vanishing),
    Rule("gradient-exploding", ("grad_norm/encoder", "grad_norm/decoder"), 60, exploding),
    Rule("clipping-always", ("grad_norm",), 200, clipped),
    Rule("learning-rate-low", ("moved/encoder", "moved/decoder", "lr"), 200, stands_still),
)
