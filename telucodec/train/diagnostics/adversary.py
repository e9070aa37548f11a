"""Rules on the balance between codec and adversary: who has won, and what it costs the reconstruction."""

import statistics

from telucodec.train.diagnostics.diagnosis import Evidence
from telucodec.train.diagnostics.history import PULLED, History, Rule

DROWNED = 1.5  # times the reconstruction loss of the steps in which the discriminators learned alone
TOLD = 0.97  # of the patches told rightly


def drowns(history: History, patience: int) -> Evidence | None:
    """The codec gives up the signal: the reconstruction loss is far above what it was before the pull."""
    recent, before = history.recent("total", patience), history.before_pull
    if not recent or before is None or PULLED not in history.readings[-1]:
        return None
    if min(recent) < DROWNED * before:
        return None
    return {"loss": statistics.median(recent), "before the pull": before, "threshold": DROWNED * before}


def has_won(history: History, patience: int) -> Evidence | None:
    """The discriminators tell nearly every patch: what they pull to says little of how to get there."""
    accuracy = history.recent("adversary/accuracy", patience)
    if not accuracy or min(accuracy) < TOLD:
        return None
    return {"share told rightly": accuracy[-1], "threshold": TOLD}


RULES = (
    Rule("adversary-drowns", ("total", "adversary/features", "snr_db"), 40, drowns),
    Rule("discriminators-won", ("adversary/accuracy", "adversary/loss", "adversary/grad_norm"), 200, has_won),
)
