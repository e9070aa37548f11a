"""What is trained behind the codes keeps of the weights it started from: their id and tables.

Kept in the run folder, so that a resumed run still knows it.
"""

import shutil
from pathlib import Path

from telucodec.coders import RATES
from telucodec.errors import ModelError
from telucodec.model.codec import Codec
from telucodec.prior.layered import REFINEMENT_TABLES
from telucodec.prior.network import NETWORK
from telucodec.prior.tables import TABLES

ORIGIN, MODEL_ID = "origin", "model_id"
KEPT = (TABLES, NETWORK, RATES, REFINEMENT_TABLES)


def keep_origin(run: Path, codec: Codec) -> None:
    """Note in the run folder which codes the weights will decode, and keep the tables that code them."""
    folder = run / ORIGIN
    folder.mkdir(exist_ok=True)
    for name in KEPT:
        if codec.folder is not None and (codec.folder / name).is_file():
            shutil.copyfile(codec.folder / name, folder / name)
    (folder / MODEL_ID).write_text(codec.model_id.hex(), encoding="utf-8")


def origin_id(run: Path) -> bytes:
    """The id noted by `keep_origin`; `ModelError` if there is none."""
    try:
        return bytes.fromhex((run / ORIGIN / MODEL_ID).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{run} does not say whose codes it learns to decode: {error}; start again with --init-from"
        ) from error


def copy_tables(run: Path, weights: Path) -> None:
    """Put the kept tables beside the new weights."""
    for name in KEPT:
        if (run / ORIGIN / name).is_file():
            shutil.copyfile(run / ORIGIN / name, weights / name)
