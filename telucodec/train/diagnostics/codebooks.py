"""Rules on codebooks: collapse, no learning, revival without end."""

from telucodec.train.diagnostics.diagnosis import Evidence
from telucodec.train.diagnostics.history import History, Rule

USED, PERPLEXITY = 0.2, 0.1  # shares of the codewords; healthy: 0.65 to 1.0, and 0.31 to 1.0
OLD_STEPS = 400.0  # without use: a dead codeword that revival should have replaced
CHURN = 0.03  # of all codewords revived per step; healthy: below 0.0017
LEFT, GROWN = 0.5, 2.0  # energy left after the last stage; healthy: 0.02 to 0.12, a small model's up to 0.41


def few_used(history: History, patience: int) -> Evidence | None:
    """A stage whose use is concentrated on a handful, or in which dead codewords grow old."""
    size = history.plan.codebook_size
    for name in history.names("codebook/perplexity/"):
        stage = name.rpartition("/")[2]
        perplexity = history.recent(name, patience)
        usage = history.recent(f"codebook/usage/{stage}", patience)
        if not perplexity or not usage:
            continue
        if max(perplexity) < max(1.5, PERPLEXITY * size) or max(usage) < USED:
            return {
                "stage": stage,
                "perplexity": perplexity[-1],
                "codewords": float(size),
                "share used": usage[-1],
                "oldest unused, steps": _age(history, stage),
            }
    return None


def aged(history: History, patience: int) -> Evidence | None:
    """Codewords that nothing replaces, though they are long dead, in a stage that is used badly besides."""
    for name in history.names("codebook/dead_age/"):
        stage, ages = name.rpartition("/")[2], history.recent(name, patience)
        usage = history.recent(f"codebook/usage/{stage}", patience)
        if ages and usage and min(ages) > OLD_STEPS and max(usage) < 2 * USED:
            return {"stage": stage, "oldest unused, steps": ages[-1], "share used": usage[-1]}
    return None


def churns(history: History, patience: int) -> Evidence | None:
    """Far more codewords are revived than can be dying: they do not survive."""
    revived = history.recent("codebook/revived_share", patience)
    if not revived or min(revived) < CHURN:
        return None
    return {"share revived per step": revived[-1], "threshold": CHURN}


def left_over(history: History, patience: int) -> Evidence | None:
    """Quantization leaves most of the energy, and more than at the start."""
    shares = history.recent("residual_share", patience)
    start = history.before("residual_share", patience)
    if not shares or start is None or min(shares) < LEFT or min(shares) < GROWN * start:
        return None
    return {"energy left by the last stage": shares[-1], "at the start": start, "threshold": LEFT}


def untaught(history: History, patience: int) -> Evidence | None:
    """Codebooks that learn by gradient and get none: their loss is missing."""
    norms = history.recent("grad_norm/quantizer", patience)
    if "quantizer" not in history.plan.learned_by_gradient or not norms or max(norms) > 0:
        return None
    return {"gradient norm of the codebooks": 0.0}


def _age(history: History, stage: str) -> float:
    return history.readings[-1].get(f"codebook/dead_age/{stage}", 0.0)


RULES = (
    Rule("codebook-collapse", ("codebook/perplexity/00", "codebook/usage/00"), 60, few_used),
    Rule("codebook-collapse", ("codebook/dead_age/00", "codebook/usage/00"), 200, aged),
    Rule("revival-lost", ("codebook/revived_share",), 60, churns),
    Rule("codebook-not-learning", ("grad_norm/quantizer",), 20, untaught),
    Rule("codebook-not-learning", ("residual_share", "commitment"), 60, left_over),
)
