"""Entropy tables for given weights: encode clips of the training audio, count, and write the tables.

Shapes: Q codebooks, L frames.
"""

import json
import logging
from pathlib import Path

import numpy as np

from telucodec.bitstream.bitpack import Codes
from telucodec.coders import RATES
from telucodec.config import DataConfig
from telucodec.errors import DataError
from telucodec.files import replacing
from telucodec.model.codec import Codec, load_codec
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.fitting import fit_tables
from telucodec.prior.tables import TABLES, Tables
from telucodec.streaming import FILE_FRAMES
from telucodec.train.data import Corpus, load_corpus, split_speakers

log = logging.getLogger(__name__)

MINUTES = 150.0  # of audio; from 30 to 133 minutes, the codes of unseen speakers shrink by 2.4 %


def fit_entropy(
    folder: Path, data_dir: Path, *, max_minutes: float = MINUTES, device: str = "cpu", seed: int = 0
) -> Tables:
    """Fit tables to the weights in ``folder`` on audio below ``data_dir``, and write them beside the weights.

    Raises:
        ModelError: ``folder`` holds no weights.
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
    return write_entropy(folder, codec, corpus, held_out, max_minutes=max_minutes, seed=seed)


def write_entropy(
    folder: Path,
    codec: Codec,
    corpus: Corpus,
    held_out: Corpus,
    *,
    max_minutes: float = MINUTES,
    seed: int = 0,
) -> Tables:
    """Tables fitted to ``corpus``, and the rates they give on ``held_out``, written into ``folder``."""
    codes = codes_of(codec, corpus, max_minutes=max_minutes, seed=seed)
    tables = fit_tables(codes, codebook_size=codec.config.quantizer.codebook_size)
    unseen = codes_of(codec, held_out, max_minutes=max_minutes, seed=seed)
    rates = measured_kbps(EntropyCoder.from_tables(tables), unseen, codec.config.frame_rate_hz)
    tables.save(folder / TABLES)
    with replacing(folder / RATES) as temporary:
        temporary.write_text(json.dumps({"kbps": rates}) + "\n", encoding="utf-8")
    log.info("entropy tables: %d clips counted, all stages take %.2f kbps", len(codes), rates[-1])
    return tables


def measured_kbps(coder: EntropyCoder, codes: list[Codes], frame_rate_hz: float) -> list[float]:
    """Mean payload rate of the first 1 to Q stages of ``codes``, in packets as files have them."""
    n_bits = np.zeros(len(codes[0]))
    for clip in codes:
        for start in range(0, clip.shape[1], FILE_FRAMES):
            packet = clip[:, start : start + FILE_FRAMES]
            n_bits += [8 * len(coder.encode(packet[:stages])) for stages in range(1, len(packet) + 1)]
    n_frames = sum(clip.shape[1] for clip in codes)
    return [round(float(bits) / n_frames * frame_rate_hz / 1000, 4) for bits in n_bits]


def codes_of(codec: Codec, corpus: Corpus, *, max_minutes: float, seed: int) -> list[Codes]:
    """Codes ``[Q, L]`` of whole clips in random order, until ``max_minutes`` are reached."""
    device = codec.decoder.output_scale.device
    minutes, found = 0.0, []
    for index in np.random.default_rng(seed).permutation(len(corpus.names)):
        if minutes >= max_minutes:
            break
        wav = corpus.clip(int(index))
        minutes += len(wav) / corpus.rate_hz / 60
        codes = codec.encode(wav[None, None].to(device))[0]
        found.append(codes.cpu().numpy().astype(np.uint16))
    return found
