"""A rule on time: the device waits for data."""

import statistics

from telucodec.train.diagnostics.diagnosis import Evidence
from telucodec.train.diagnostics.history import History, Rule

WAITING = 0.5  # of the time of a step; healthy on a CPU without workers: 0.1


def starved(history: History, patience: int) -> Evidence | None:
    """More time goes into waiting for a batch than into learning from it."""
    shares = history.recent("wait_share", patience)
    if not shares or statistics.median(shares) < WAITING:
        return None
    return {"share of time waited": statistics.median(shares), "threshold": WAITING}


RULES = (Rule("loader-starves", ("wait_share",), 100, starved),)
