"""What every metric stands on: a pair of signals, checked, and the reasons why a figure cannot be had.

Shapes: T samples.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telucodec.errors import TelucodecError

Signal = NDArray[np.floating[Any]]
Exact = NDArray[np.float64]
Metric = Callable[[Signal, Signal, int], float]


class MetricUnavailable(TelucodecError):
    """A metric cannot be computed here; the message is the reason, fit to be shown in a table."""


def as_pair(reference: Signal, estimate: Signal) -> tuple[Exact, Exact]:
    """Both signals in float64; `ValueError` unless they are ``[T]`` and equally long."""
    if reference.ndim != 1 or reference.shape != estimate.shape:
        raise ValueError(
            f"reference {reference.shape} and estimate {estimate.shape} must be [T], equally long"
        )
    return reference.astype(np.float64), estimate.astype(np.float64)


def energy(x: Exact) -> float:
    """Sum of squares; added pairwise, so that it does not depend on the number of threads of a BLAS."""
    return float(np.square(x).sum())


def ratio_db(above: float, below: float) -> float:
    """``10 log10(above / below)``; nan when nothing is above, inf when nothing is below."""
    if not above:
        return math.nan
    return 10.0 * math.log10(above / below) if below else math.inf


def refuse_silence(reference: Exact, estimate: Exact) -> None:
    """`MetricUnavailable` if either signal is empty or digital silence."""
    for name, x in (("reference", reference), ("estimate", estimate)):
        if not x.size:
            raise MetricUnavailable("the clip is empty")
        if not x.any():
            raise MetricUnavailable(f"the {name} is silent")


def install_hint(package: str) -> str:
    """The reason to show where a package of the extra is missing."""
    return f'the package {package} is not installed; pip install -e ".[eval]"'


def at_rate(x: Exact, from_hz: int, to_hz: int) -> Exact:
    """``[T]`` through the one resampler of the project, imported here because it brings torch along."""
    if from_hz == to_hz:
        return x
    from torch import from_numpy

    from telucodec.audio import resample

    y: Exact = resample(from_numpy(x), from_hz, to_hz).numpy()
    return y
