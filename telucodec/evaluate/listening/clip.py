"""What the page needs of a clip: its signals, and the codes of one stream.

Shapes: T samples, Q codebooks, L frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float32]
"""``[T]``, one channel, full scale at 1.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportClip:
    """A clip to listen to: the recording, and what each system made of it.

    Raises:
        ValueError: a signal is not ``[T]``, holds a value that is not finite, or is as long as no other; or
            the codes are not ``[Q, L]``.
    """

    clip: str  # path below its source folder, with suffix: as in the rows of the report
    folder: str
    rate_hz: int
    reference: Signal  # [T]
    estimates: dict[str, Signal]  # display name of the system -> [T]
    codes: NDArray[Any] | None = None  # [Q, L]

    def __post_init__(self) -> None:
        signals = {"reference": self.reference} | self.estimates
        for name, wav in signals.items():
            if wav.ndim != 1 or not wav.size or wav.shape != self.reference.shape:
                raise ValueError(
                    f"{self.clip}: {name} is {wav.shape}; expected [T], T > 0, "
                    f"like the reference {self.reference.shape}"
                )
            if not np.isfinite(wav).all():
                raise ValueError(f"{self.clip}: {name} holds values that are not finite")
        if self.codes is not None and (self.codes.ndim != 2 or not self.codes.size):
            raise ValueError(f"{self.clip}: codes are {self.codes.shape}; expected [Q, L]")

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.reference.size / self.rate_hz
