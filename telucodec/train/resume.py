"""The settings that a run was started with, read back from its folder so that it can go on under them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from telucodec.errors import DataError

FACTS = "run.jsonl"  # one line per start of the run; the last one counts


def resumed_settings(run: Path) -> list[str]:
    """The resolved settings of the run folder as overrides for `telucodec.config.load_config`.

    Raises:
        DataError: ``run`` is not a run folder, or its record is damaged.
    """
    path = run / FACTS
    try:
        last = path.read_text(encoding="utf-8").splitlines()[-1]
        return list(_overrides(json.loads(last)["config"]))
    except FileNotFoundError as error:
        raise DataError(
            f"{run} is not a run to resume: it holds no {FACTS}; name a folder of `train`"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged: {error!r}; give the settings of the run with --config"
        ) from error


def _overrides(table: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """``a.b=value`` for every leaf; what JSON writes for numbers, strings and lists, TOML reads."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _overrides(value, f"{where}{name}.")
        else:
            yield f"{where}{name}={json.dumps(value)}"
