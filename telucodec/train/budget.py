"""What a run may take, in minutes and in money, and what it has taken, over all its starts."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from telucodec.errors import ConfigError
from telucodec.files import replacing

SPENT = "spent.json"


@dataclass(frozen=True)
class Budget:
    """Limits given on the command line; None: none."""

    max_minutes: float | None = None  # of this start
    price_per_hour: float | None = None  # of the machine, in any currency
    max_cost: float | None = None  # of the run folder, earlier starts included

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price_per_hour is None:
            raise ConfigError("--max-cost needs a price; add --price-per-hour")


NO_LIMITS = Budget()


class Meter:
    """Time since the start and since the first start of a run folder."""

    def __init__(self, budget: Budget, folder: Path) -> None:
        self.budget, self._path = budget, folder / SPENT
        self._started = time.monotonic()
        try:
            self._earlier_s = float(json.loads(self._path.read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            self._earlier_s = 0.0

    @property
    def seconds(self) -> float:
        return self._earlier_s + time.monotonic() - self._started

    @property
    def cost(self) -> float | None:
        """What the run has cost to date; None without a price."""
        price = self.budget.price_per_hour
        return None if price is None else price * self.seconds / 3600

    def spent(self) -> str:
        """The budget that is used up, by its option; empty while there is some left."""
        minutes, cost = self.budget.max_minutes, self.budget.max_cost
        if minutes is not None and time.monotonic() - self._started > 60 * minutes:
            return f"--max-minutes {minutes:g}"
        if cost is not None and self.cost is not None and self.cost > cost:
            return f"--max-cost {cost:g}"
        return ""

    def line(self) -> str:
        """Time and cost to date."""
        text = f"{self.seconds / 3600:.2f} h to date"
        return text if self.cost is None else f"{text}, cost {self.cost:.2f}"

    def save(self) -> None:
        """Keep the time for the next start of this folder."""
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps({"seconds": round(self.seconds, 1)}) + "\n", encoding="utf-8")
