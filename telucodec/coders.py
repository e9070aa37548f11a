"""Which coder the packets of a stream need, and what rate it gives. Free of torch.

Shapes: Q codebooks, L frames.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from telucodec.bitstream.coder import ENTROPY_MODES, N_LEVEL_STAGES, FixedWidthCoder, PacketCoder
from telucodec.bitstream.container import check_coder
from telucodec.bitstream.header import Header
from telucodec.errors import BitstreamError, ConfigError, ModelError
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.layered import REFINEMENT_TABLES, LayeredCoder
from telucodec.prior.tables import TABLES

RATES = "rates.json"
"""Beside the tables: what the first 1 to Q stages took on speakers the tables were not fitted to."""


REFINED_KBPS = 5.5
"""The rate from which a refinement is worth its bits."""

LEAST_KBPS = 1.2
"""Of a refined stream that are left to the refinement at least."""


def best_entropy(model_folder: Path | None, kbps: float | None = None, *, is_held: bool = False) -> str:
    """The name in `ENTROPY_MODES` that suits a rate, or a fixed number of stages where ``kbps`` is None.

    ``"none"`` without entropy tables beside the weights; ``"variable"`` for a rate that frames of
    `MIN_DEPTH` stages and more can have; else ``"static"``. For a signal that ``is_held`` back, ``"refined"``
    from `REFINED_KBPS` on if there are tables for it.
    """
    if model_folder is None or not (model_folder / TABLES).is_file():
        return "none"
    if kbps is None:
        return "static"
    has_prices = bool(measured_rates(model_folder).prices)
    if has_prices and is_held and kbps >= REFINED_KBPS and (model_folder / REFINEMENT_TABLES).is_file():
        return "refined"
    return "variable" if has_prices and kbps >= lowest_price_kbps(model_folder) else "static"


def build_coder(mode: int, codeword_bits: int, model_folder: Path | None) -> PacketCoder:
    """The coder of entropy mode ``mode``, with the tables that lie beside the weights in ``model_folder``.

    Raises:
        BitstreamError: this build has no such mode.
        ModelError: there are no tables, or they are damaged.
    """
    if mode == ENTROPY_MODES["none"]:
        return FixedWidthCoder(codeword_bits)
    if mode in (ENTROPY_MODES["static"], ENTROPY_MODES["variable"]):
        if model_folder is None or not (model_folder / TABLES).is_file():
            raise ModelError(
                f"no {TABLES} lies beside the weights in {model_folder}; encode with --entropy none, "
                "or fit tables: telucodec fit-entropy"
            )
        return _entropy_coder(model_folder, mode == ENTROPY_MODES["variable"])
    if mode == ENTROPY_MODES["refined"]:
        return layered_coder(model_folder)
    known = ", ".join(f"{number} ({name})" for name, number in ENTROPY_MODES.items())
    raise BitstreamError(f"entropy mode {mode} is not in this build; expected one of {known}")


@lru_cache(maxsize=4)
def _entropy_coder(model_folder: Path, is_variable: bool) -> EntropyCoder:
    return EntropyCoder.load(model_folder, is_variable=is_variable)


def layered_coder(model_folder: Path | None) -> LayeredCoder:
    """The coder of refined streams; `ModelError` if its tables do not lie beside the weights."""
    if model_folder is None or not (model_folder / REFINEMENT_TABLES).is_file():
        raise ModelError(
            f"no {REFINEMENT_TABLES} lies beside the weights in {model_folder}; encode with "
            "--entropy variable, or fit tables: telucodec fit-entropy"
        )
    return _layered_coder(model_folder)


@lru_cache(maxsize=4)
def _layered_coder(model_folder: Path) -> LayeredCoder:
    return LayeredCoder.load(model_folder)


def base_kbps(kbps: float) -> float:
    """What the network's stages may take of the rate of a refined stream; why so much is in docs/log.md."""
    return min(kbps - LEAST_KBPS, 1.4 + 0.45 * kbps)


def refined_stages(kbps: float, available: int) -> int:
    """Stages of the refinement that suit the rate of a refined stream: at low ones, fewer coefficients."""
    n_first = 1 + N_LEVEL_STAGES
    return n_first + round(min(available - n_first, 12 + 2 * (kbps - 6)))


def coder_for(header: Header, model_folder: Path | None) -> PacketCoder:
    """The coder that reads the packets after ``header``, its tables compared with those of the stream.

    Raises:
        BitstreamError: there is no such coder, or its tables are others.
    """
    coder = build_coder(header.entropy_mode, header.codeword_bits, model_folder)
    check_coder(header, coder)
    return coder


@dataclass(frozen=True)
class Rates:
    """What speakers that the tables were not fitted to took, in kbps of payload."""

    kbps: list[float]  # the first 1 to Q stages for every frame
    prices: list[tuple[float, float]]  # price of a bit, and the rate of frames of variable depth at it
    left: list[float]  # share of the latents' energy after 0 to Q stages; empty if not measured
    search_weights: list[float]  # of latents in the errors that prices weigh; empty: all alike


@lru_cache(maxsize=4)
def measured_rates(model_folder: Path) -> Rates:
    """The rates beside the weights; `ModelError` if they are missing or damaged."""
    path = model_folder / RATES
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        prices = [(float(price), float(rate)) for price, rate in found.get("prices", [])]
        left = [float(share) for share in found.get("left", [])]
        weights = [float(weight) for weight in found.get("search_weights", [])]
        if not all(0 < weight < math.inf for weight in weights):
            raise ValueError("search_weights are not all above 0")
        return Rates([float(rate) for rate in found["kbps"]], prices, left, weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is missing or damaged: {error}; fit the tables again: telucodec fit-entropy"
        ) from error


def cumulative_kbps(
    entropy: str, stage_kbps: float, n_codebooks: int, model_folder: Path | None
) -> list[float]:
    """Payload rate of the first 1 to ``n_codebooks`` stages for every frame.

    Exact at fixed width. With tables it is what other speakers took on average; a clip may take more or less.

    Raises:
        ModelError: the measured rates are damaged.
    """
    if entropy == "none" or model_folder is None or not (model_folder / RATES).is_file():
        return [stage_kbps * (stage + 1) for stage in range(n_codebooks)]
    rates = measured_rates(model_folder).kbps
    if len(rates) < n_codebooks:
        raise ModelError(
            f"{model_folder / RATES} has rates of {len(rates)} stages; expected {n_codebooks}: "
            "fit the tables again"
        )
    return rates[:n_codebooks]


def lowest_price_kbps(model_folder: Path | None) -> float:
    """The least rate that frames of variable depth had with other speakers; raises as `price_of`."""
    return min(rate for _, rate in _prices(model_folder))


def price_of(kbps: float, model_folder: Path | None) -> float:
    """Price of a bit at which other speakers took ``kbps`` on average; the nearest one measured beyond these.

    Raises:
        ModelError: no prices were measured.
    """
    return price_among(kbps, _prices(model_folder))


def price_among(kbps: float, prices: Sequence[tuple[float, float]]) -> float:
    """As `price_of`, from prices and the rate of each."""
    logs = np.log(np.array(sorted(prices, key=lambda pair: pair[1])))
    return float(np.exp(np.interp(np.log(kbps), logs[:, 1], logs[:, 0])))


def _prices(model_folder: Path | None) -> list[tuple[float, float]]:
    found = measured_rates(model_folder).prices if model_folder is not None else []
    if not found:
        where = f"{RATES} in {model_folder}" if model_folder is not None else "a codec without a folder"
        raise ModelError(f"{where} has no prices; fit the tables again: telucodec fit-entropy")
    return found


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
