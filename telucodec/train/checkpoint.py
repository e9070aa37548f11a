"""Checkpoints of a run: written atomically, the last few and the best kept, read without unpickling objects.

A checkpoint holds everything that the next step depends on. Random numbers are drawn from
generators keyed by seed and step, so there is no generator state among it.
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from telucodec.errors import ModelError
from telucodec.files import replacing

BEST = "best.pt"


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], *, keep_last: int, is_best: bool, keep_step: int = -1
) -> Path:
    """Write ``step-NNNNNNNN.pt`` (and ``best.pt``), then drop all but ``keep_step`` and the last few."""
    path = checkpoint_of(folder, step)
    for target in (path, folder / BEST) if is_best else (path,):
        with replacing(target) as temporary:
            torch.save(state, temporary)
    for old in checkpoints(folder)[:-keep_last]:
        if old != checkpoint_of(folder, keep_step):
            old.unlink()
    return path


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in ``folder`` by step, oldest first; the best is not among them."""
    return sorted(folder.glob("step-*.pt"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values only.

    Raises:
        ModelError: the file is missing, damaged, or holds anything else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error}") from error
    return state
