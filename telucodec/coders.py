"""Which coder the packets of a stream need, and what rate it gives. Free of torch.

Shapes: Q codebooks, L frames.
"""

import json
from functools import lru_cache
from pathlib import Path

from telucodec.bitstream.coder import ENTROPY_MODES, FixedWidthCoder, PacketCoder
from telucodec.bitstream.container import check_coder
from telucodec.bitstream.header import Header
from telucodec.errors import BitstreamError, ConfigError, ModelError
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.tables import TABLES

RATES = "rates.json"
"""Beside the tables: what the first 1 to Q stages took on speakers the tables were not fitted to."""


def best_entropy(model_folder: Path | None) -> str:
    """``"static"`` where entropy tables lie beside the weights, else ``"none"``."""
    return "static" if model_folder is not None and (model_folder / TABLES).is_file() else "none"


def build_coder(mode: int, codeword_bits: int, model_folder: Path | None) -> PacketCoder:
    """The coder of entropy mode ``mode``, with the tables that lie beside the weights in ``model_folder``.

    Raises:
        BitstreamError: this build has no such mode.
        ModelError: there are no tables, or they are damaged.
    """
    if mode == ENTROPY_MODES["none"]:
        return FixedWidthCoder(codeword_bits)
    if mode == ENTROPY_MODES["static"]:
        if model_folder is None or not (model_folder / TABLES).is_file():
            raise ModelError(
                f"no {TABLES} lies beside the weights in {model_folder}; encode with --entropy none, "
                "or fit tables: telucodec fit-entropy"
            )
        return _entropy_coder(model_folder)
    known = ", ".join(f"{number} ({name})" for name, number in ENTROPY_MODES.items())
    raise BitstreamError(f"entropy mode {mode} is not in this build; expected one of {known}")


@lru_cache(maxsize=4)
def _entropy_coder(model_folder: Path) -> EntropyCoder:
    return EntropyCoder.load(model_folder)


def coder_for(header: Header, model_folder: Path | None) -> PacketCoder:
    """The coder that reads the packets after ``header``, its tables compared with those of the stream.

    Raises:
        BitstreamError: there is no such coder, or its tables are others.
    """
    coder = build_coder(header.entropy_mode, header.codeword_bits, model_folder)
    check_coder(header, coder)
    return coder


def cumulative_kbps(
    entropy: str, stage_kbps: float, n_codebooks: int, model_folder: Path | None
) -> list[float]:
    """Payload rate of the first 1 to ``n_codebooks`` stages.

    Exact at fixed width. With tables it is what other speakers took on average; a clip may take more or less.

    Raises:
        ModelError: the measured rates are damaged.
    """
    nominal = [stage_kbps * (stage + 1) for stage in range(n_codebooks)]
    path = model_folder / RATES if model_folder is not None else None
    if entropy == "none" or path is None or not path.is_file():
        return nominal
    try:
        rates = [float(rate) for rate in json.loads(path.read_text(encoding="utf-8"))["kbps"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is damaged: {error}; fit the tables again: telucodec fit-entropy"
        ) from error
    if len(rates) < n_codebooks:
        raise ModelError(
            f"{path} has rates of {len(rates)} stages; expected {n_codebooks}: fit the tables again"
        )
    return rates[:n_codebooks]


def stages_within(kbps: float, rates: list[float]) -> int:
    """The most stages whose rate, one of the cumulative ``rates``, is at most ``kbps``.

    Raises:
        ConfigError: not even one stage fits.
    """
    fitting = sum(rate <= kbps + 1e-9 for rate in rates)
    if not fitting:
        raise ConfigError(
            f"{kbps:g} kbps is less than one stage; expected {rates[0]:.3g} to {rates[-1]:.3g} kbps"
        )
    return fitting
