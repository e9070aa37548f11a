"""All rules in the order in which they are asked: the one that explains most comes first."""

from telucodec.train.diagnostics import adversary, codebooks, gradients, losses, pace, signal
from telucodec.train.diagnostics.diagnosis import Diagnosis
from telucodec.train.diagnostics.history import History

RULES = (
    *adversary.RULES,
    *losses.RULES,
    *gradients.RULES,
    *codebooks.RULES,
    *signal.RULES,
    *pace.RULES,
)


def examine(history: History) -> list[Diagnosis]:
    """What every rule has to say about the run as it stands, worst first."""
    found = [diagnosis for rule in RULES if (diagnosis := rule(history)) is not None]
    return sorted(found, key=lambda diagnosis: diagnosis.is_warning)
