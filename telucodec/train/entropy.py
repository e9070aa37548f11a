"""Entropy tables for given weights: encode clips of the training audio, count, and write the tables.

Shapes: Q codebooks, L frames.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telucodec.allocation import Priced
from telucodec.audio import resample
from telucodec.bitstream.bitpack import Codes
from telucodec.coders import RATES, REFINED_KBPS, base_kbps, measured_rates, price_among
from telucodec.config import DataConfig
from telucodec.decoding import FILE_FRAMES
from telucodec.errors import DataError
from telucodec.files import replacing
from telucodec.frames import pad_to_frames
from telucodec.ladders import APART, FIRST_STEP, N_STEPS, Frames, cheapest_depths
from telucodec.model.codec import Codec, load_codec
from telucodec.model.lattice import LatticeQuantizer, step_for
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.depths import choose_depths, cut
from telucodec.prior.fitting import fit_tables
from telucodec.prior.layered import N_BASE, REFINEMENT_TABLES
from telucodec.prior.network import NETWORK, Codebooks, Network, read_codebooks
from telucodec.prior.tables import TABLES, Tables
from telucodec.refining import Refiner, refinement_of
from telucodec.train.data import Corpus, load_corpus, split_speakers
from telucodec.train.prior import fit_network
from telucodec.train.sensitivity import search_weights

log = logging.getLogger(__name__)

SPEEDS = (8, 9), (9, 8)  # from and to rates: at which a network also hears the clips
N_DRAWS = 2  # of prices for each clip at each speed
HALVINGS = 7.0, 12.5  # of the latents' energy, down to prices at which files of 1 to 9 kbps are written
N_PRICES = 40
N_MEASURED = 24  # numbers of stages
N_WEIGHED = 48  # clips that weights of the search are measured on
N_CLASSES, RANK = 30, 10  # of the tables of a lattice quantizer, which has many stages
SNRS_DB = 16.0, 40.0  # range of what its step is drawn from, for each clip
REFINED_RANGE_KBPS = REFINED_KBPS, 12.0  # rates at which refinements are counted
FEWEST_FRAMES = 3000  # of which a network can learn more than tables count
MINUTES = 150.0  # of audio; from 30 to 133 minutes, the codes of unseen speakers shrink by 2.4 %


def fit_entropy(
    folder: Path,
    data_dir: Path,
    *,
    max_minutes: float = MINUTES,
    device: str = "cpu",
    seed: int = 0,
    keeps_tables: bool = False,
) -> bytes:
    """Fit tables to the weights in ``folder`` on audio below ``data_dir``, and write them beside the weights.

    Args:
        keeps_tables: leave those of the network's stages, and with them its streams, as they are.

    Returns:
        See `write_entropy`.

    Raises:
        ModelError: ``folder`` holds no weights, or no tables to keep.
        DataError: ``data_dir`` holds no audio.
    """
    config = DataConfig()
    codec = load_codec(folder, device=device)
    corpus = load_corpus(data_dir, codec.config.sample_rate_hz, config)
    try:
        corpus, held_out = split_speakers(corpus, config.validation_share)
    except DataError:
        log.warning(
            "too few clips to hold some out: the rates are those of the clips the tables were fitted to"
        )
        held_out = corpus
    kept = _Prior.load(folder) if keeps_tables else None
    return write_entropy(folder, codec, corpus, held_out, max_minutes=max_minutes, seed=seed, kept=kept)


def write_entropy(
    folder: Path,
    codec: Codec,
    corpus: Corpus,
    held_out: Corpus,
    *,
    max_minutes: float = MINUTES,
    seed: int = 0,
    kept: "_Prior | None" = None,
) -> bytes:
    """Tables fitted to ``corpus``, and the rates they give on ``held_out``, written into ``folder``.

    Before that, the weights of the search for codes, which the prices of bits rest on. A prior that is
    ``kept`` is taken as it is.

    Returns:
        The hash by which streams of even depth name the tables.
    """
    weights = weigh_search(codec, corpus, seed=seed)
    unseen = encoded_clips(codec, held_out, max_minutes=max_minutes, seed=seed)
    packets = [packet for clip in unseen for packet in _packets(clip)]
    prior = kept or _fitted_prior(codec, folder, corpus, packets, max_minutes=max_minutes, seed=seed)
    rate_hz = codec.config.frame_rate_hz
    rates = stage_rates(prior.coder(), packets, rate_hz)
    found: dict[str, Any] = {"kbps": rates}
    prices = []  # a lattice quantizer has steps in place of frames of variable depth
    if not isinstance(codec.quantizer, LatticeQuantizer):
        prices = price_rates(prior.coder(is_variable=True), packets, rates, rate_hz)
        found |= {"prices": prices, "left": shares_left(packets), "search_weights": weights}
    if kept is None:
        prior.save(folder)
    if prices:
        bits = np.array(rates) * 1000 / rate_hz
        codes = refinement_codes(codec, corpus, bits, prices, max_minutes=max_minutes, seed=seed)
        layer = refinement_of(codec)
        _fitted_lattice(codes, layer.contexts(), layer.quantizer).save(folder / REFINEMENT_TABLES)
    with replacing(folder / RATES) as temporary:
        temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
    measured_rates.cache_clear()
    log.info("entropy tables: all stages take %.2f kbps", rates[-1])
    return prior.coder().tables_hash


def weigh_search(codec: Codec, corpus: Corpus, *, seed: int) -> list[float]:
    """Measure the weights of the search for codes, and let ``codec`` search with them; none for lattices."""
    if isinstance(codec.quantizer, LatticeQuantizer):
        return []
    codec.quantizer.weigh_search([1.0] * codec.config.latent_dim)  # whatever was measured before
    clips = islice(_clips(codec, corpus, MINUTES, np.random.default_rng(seed)), N_WEIGHED)
    weights = search_weights(codec, clips, seed=seed)
    codec.quantizer.weigh_search(weights)
    return weights


@dataclass(frozen=True)
class _Prior:
    """What predicts the codes of the codec's stages: tables, and perhaps a network trained from them."""

    tables: Tables
    network: Network | None = None
    codebooks: Codebooks | None = None  # as they lie beside the network

    @classmethod
    def load(cls, folder: Path) -> "_Prior":
        """As `save` left it; `ModelError` if it did not."""
        tables = Tables.load(folder / TABLES)
        if not (folder / NETWORK).is_file():
            return cls(tables)
        return cls(tables, Network.load(folder / NETWORK), read_codebooks(folder))

    def save(self, folder: Path) -> None:
        """Write both files; one that there is not is removed."""
        self.tables.save(folder / TABLES)
        if self.network is None:
            (folder / NETWORK).unlink(missing_ok=True)
        else:
            self.network.save(folder / NETWORK)

    def coder(self, *, is_variable: bool = False) -> EntropyCoder:
        """The coder of streams of even or variable depth."""
        if self.network is None or self.codebooks is None:
            return EntropyCoder.from_tables(self.tables, is_variable=is_variable)
        return EntropyCoder.from_network(self.tables, self.network, self.codebooks, is_variable=is_variable)


def _fitted_prior(
    codec: Codec, folder: Path, corpus: Corpus, unseen: list[Frames], *, max_minutes: float, seed: int
) -> _Prior:
    """Tables, and a network if codes of ``unseen`` packets take fewer bytes with it."""
    clips = encoded_clips(codec, corpus, max_minutes=max_minutes, seed=seed)
    codes = [clip.codes for clip in clips]
    if isinstance(codec.quantizer, LatticeQuantizer):
        return _Prior(_fitted_lattice(codes, codec.quantizer.contexts(), codec.quantizer))
    alone = _Prior(fit_tables(codes, codebook_size=codec.config.quantizer.codebook_size))
    if codec.config.quantizer.n_codebooks == 1 or _n_frames(clips) < FEWEST_FRAMES:
        return alone
    rate_hz = codec.config.frame_rate_hz
    bits = np.array(stage_rates(alone.coder(), unseen, rate_hz)) * 1000 / rate_hz
    for speed in SPEEDS:
        clips += encoded_clips(codec, corpus, max_minutes=max_minutes, seed=seed, speed=speed)
    uneven = ending_early(clips * N_DRAWS, bits, seed=seed)
    codebooks = read_codebooks(folder)
    words = torch.from_numpy(codebooks.astype(np.float32))
    found = fit_network(codes, uneven, alone.tables, words, packet_frames=FILE_FRAMES, seed=seed)
    taught = _Prior(*found, codebooks)
    n_bytes = [
        sum(map(len, prior.coder().encode_all([packet.codes for packet in unseen])))
        for prior in (alone, taught)
    ]
    log.info("entropy tables: %d bytes of unseen codes alone, %d with a network", *n_bytes)
    return min((n_bytes[1], taught), (n_bytes[0], alone), key=itemgetter(0))[1]


def ending_early(clips: Sequence[Frames], bits: NDArray[np.float64], *, seed: int) -> list[Codes]:
    """Codes of clips whose frames end where they would in files, each at a price of a bit drawn by chance.

    Half of them have no more stages than refined files.

    Args:
        bits: ``[Q]`` that the first 1 to Q stages of a frame take on average.
    """
    generator = np.random.default_rng(seed)
    energy = np.concatenate([clip.errors[0] for clip in clips]).mean()
    found = []
    for clip in clips:
        limit = min(len(bits), int(generator.choice([N_BASE, len(bits)])))
        price = energy * 2 ** -generator.uniform(*HALVINGS)
        packets = [replace(packet, errors=packet.errors[: limit + 1]) for packet in _packets(clip)]
        depths = cheapest_depths(packets, bits[:limit], np.array([price]))
        found.append(cut(clip.codes, np.concatenate([chosen[0] for chosen in depths])))
    return found


def _fitted_lattice(
    codes: list[Codes], contexts: list[list[tuple[int, int]]], quantizer: LatticeQuantizer
) -> Tables:
    size = len(quantizer.points)
    return fit_tables(
        codes, codebook_size=size, contexts=contexts, n_classes=N_CLASSES, rank=RANK, is_ordered=True
    )


def refinement_codes(
    codec: Codec,
    corpus: Corpus,
    bits: NDArray[np.float64],
    prices: list[tuple[float, float]],
    *,
    max_minutes: float,
    seed: int,
) -> list[Codes]:
    """Codes of the refinement of packets, behind network stages as they are at rates that are refined.

    Args:
        bits: ``[Q]`` that the first 1 to Q stages of a frame take on average.
        prices: as from `price_rates`.
    """
    generator = np.random.default_rng(seed)
    n_base = min(len(bits), N_BASE)
    found: list[Codes] = []
    for wav in _clips(codec, corpus, max_minutes, generator):
        kbps = generator.uniform(*REFINED_RANGE_KBPS)
        refiner = Refiner(codec, refinement_of(codec).n_codebooks, kbps)
        codes, errors = codec.encode_with_errors(wav, n_codebooks=n_base)
        padded = pad_to_frames(wav, codec.config.hop, codec.config.delay)
        frames = Frames(_codes(codes), errors[0].cpu().numpy(), targets=refiner.targets(padded))
        price = price_among(base_kbps(kbps), prices)
        depths = choose_depths(frames.errors[None], bits[:n_base], np.array([price]))[0, 0]
        packets = _packets(replace(frames, codes=cut(frames.codes, depths)))
        step = FIRST_STEP + APART * int(generator.integers(N_STEPS))
        for left in refiner.residuals(packets, [packet.codes for packet in packets]):
            found.append(refiner.codes_at(left, step))
    return found


def stage_rates(coder: EntropyCoder, packets: list[Frames], frame_rate_hz: float) -> list[float]:
    """Mean payload rate in kbps of the first 1 to Q stages for every frame.

    Measured for `N_MEASURED` numbers of stages at most, interpolated between these.
    """
    n_stages = len(packets[0].codes)
    measured = np.unique(np.linspace(1, n_stages, min(n_stages, N_MEASURED)).round().astype(int))
    n_bits = [
        8 * sum(map(len, coder.encode_all([packet.codes[:number] for packet in packets])))
        for number in measured
    ]
    bits = np.interp(np.arange(1, n_stages + 1), measured, n_bits)
    return [round(float(each) * frame_rate_hz / 1000 / _n_frames(packets), 4) for each in bits]


def price_rates(
    coder: EntropyCoder, packets: list[Frames], rates: list[float], frame_rate_hz: float
) -> list[tuple[float, float]]:
    """Prices of a bit, highest first, and the mean payload rate in kbps that each gives.

    ``rates`` are those of `stage_rates`. Prices halve until they hardly change the rate any more.
    """
    bits = np.array(rates) * 1000 / frame_rate_hz
    price = float(np.mean([packet.errors[0].mean() for packet in packets])) / 4
    found: list[tuple[float, float]] = []
    while len(found) < N_PRICES and price > 0:
        n_bytes = sum(map(len, Priced(coder, bits, price).payloads(packets, 0)))
        rate = round(8 * n_bytes * frame_rate_hz / 1000 / _n_frames(packets), 4)
        if found and rate < 1.002 * found[-1][1] and rate > 0.9 * rates[-1]:
            break
        if not found or rate > found[-1][1]:
            found.append((float(f"{price:.4g}"), rate))
        price /= 2
    return found


def shares_left(packets: Sequence[Frames]) -> list[float]:
    """Share of the latents' energy, weighed as errors are, that the first 0 to Q stages leave."""
    energies = np.concatenate([packet.errors for packet in packets], axis=1).sum(axis=1, dtype=np.float64)
    return [float(f"{share:.4g}") for share in energies / max(energies[0], 1e-12)]


def _packets(clip: Frames) -> list[Frames]:
    """A whole clip in packets as files have them."""
    starts = range(0, clip.codes.shape[1], FILE_FRAMES)
    ends = [(start, start + FILE_FRAMES) for start in starts]
    return [clip.part(start, end) for start, end in ends]


def _n_frames(packets: Sequence[Frames]) -> int:
    return sum(packet.codes.shape[1] for packet in packets)


def encoded_clips(
    codec: Codec, corpus: Corpus, *, max_minutes: float, seed: int, speed: tuple[int, int] = (1, 1)
) -> list[Frames]:
    """Whole clips in random order, until ``max_minutes`` are reached; resampled if there is a ``speed``."""
    found: list[Frames] = []
    generator = np.random.default_rng(seed)
    for clip in _clips(codec, corpus, max_minutes, generator):
        wav = resample(clip, *speed)
        if isinstance(codec.quantizer, LatticeQuantizer):
            found.append(_encoded_at(codec, codec.quantizer, wav, generator.uniform(*SNRS_DB)))
            continue
        codes, errors = codec.encode_with_errors(wav)
        found.append(Frames(_codes(codes), errors[0].cpu().numpy()))
    return found


def _clips(
    codec: Codec, corpus: Corpus, max_minutes: float, generator: np.random.Generator
) -> Iterator[Tensor]:
    """Clips ``[1, 1, T]`` in random order, until ``max_minutes`` are reached."""
    minutes = 0.0
    for index in generator.permutation(len(corpus.names)):
        if minutes >= max_minutes:
            return
        wav = corpus.clip(int(index))
        minutes += len(wav) / corpus.rate_hz / 60
        yield wav[None, None].to(codec.decoder.output_scale.device)


def _codes(codes: Tensor) -> Codes:
    found: Codes = codes[0].cpu().numpy().astype(np.uint16)
    return found


@torch.no_grad()
def _encoded_at(codec: Codec, quantizer: LatticeQuantizer, wav: Tensor, snr_db: float) -> Frames:
    """A clip ``[1, 1, T]`` with one step for about this SNR; the errors are not needed."""
    latents = codec.encoder(pad_to_frames(wav, codec.config.hop, codec.config.delay))
    steps = step_for(latents.square().mean(dim=(1, 2)), snr_db)
    codes = _codes(quantizer.encode_at(latents, steps))
    return Frames(codes, np.zeros((len(codes) + 1, codes.shape[1]), dtype=np.float32))
