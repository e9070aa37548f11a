"""Two audio files of any codec on our yardstick: every metric of one against the other.

The estimate is brought to the reference's rate, its delay is found and taken back, then it is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telucodec.audio import audio_info, read_audio
from telucodec.evaluate.metrics import Measured, measure_aligned


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found; ``changes`` says what was done to the files to make them comparable."""

    reference: Path
    estimate: Path
    rate_hz: int
    seconds: float  # of the reference
    estimate_seconds: float
    changes: tuple[str, ...]
    measured: Measured

    def describe(self) -> dict[str, Any]:
        """Everything as it is; a metric that could not run is None."""
        names = {"reference": str(self.reference), "estimate": str(self.estimate)}
        facts = {"rate_hz": self.rate_hz, "seconds": self.seconds, "estimate_seconds": self.estimate_seconds}
        return names | facts | self.measured.values | dict.fromkeys(self.measured.missing)


def compare(reference: Path, estimate: Path, names: Sequence[str]) -> Comparison:
    """Measure ``estimate`` against ``reference`` by the metrics ``names``, one channel of each.

    Raises:
        TelucodecError: a file is not usable audio.
    """
    rate_hz = audio_info(reference).rate_hz
    wanted, info = read_audio(reference, rate_hz)
    found, estimate_info = read_audio(estimate, rate_hz)
    changes = [
        f"{item.path}: {item.changes(rate_hz)}" for item in (info, estimate_info) if item.changes(rate_hz)
    ]
    return Comparison(
        reference=reference,
        estimate=estimate,
        rate_hz=rate_hz,
        seconds=info.seconds,
        estimate_seconds=estimate_info.seconds,
        changes=tuple(changes),
        measured=measure_aligned(wanted[0].numpy(), found[0].numpy(), rate_hz, names),
    )
