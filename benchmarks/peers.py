"""Speed beside other neural codecs: their architectures and ours on the same audio, one process, one thread.

    pip install 'transformers>=4.45'  # no dependency of telucodec; nothing is downloaded
    python benchmarks/peers.py [--repeats 5] [--clip data/clips/te-cv-42973999.flac] [--out out/peers]

EnCodec 24 kHz, Mimi 24 kHz and DAC 16 kHz are built from their published settings with random weights: work
does not depend on the weights, sound would. Every codec encodes and decodes the clip once per repeat, in an
order that moves on by one each time, so that a busy machine slows all of them alike; ratios are taken within
a repeat. Times are of the processor. Ours comes twice: the network alone, as the others, and the whole way
through the stream with its entropy coder. Writes peers.json and peers.md into the folder.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitstream import machine
from torch import Tensor, nn

from telucodec.audio import read_audio
from telucodec.evaluate.report import Table
from telucodec.model.codec import Codec
from telucodec.pipeline import open_codec
from telucodec.streaming import StreamDecoder, StreamEncoder

ROOT = Path(__file__).parents[1]
KBPS = 6.0
OURS = "telucodec, network"


@dataclass(frozen=True)
class Peer:
    """A codec as two functions: ``[1, 1, T]`` to what is sent, and back."""

    name: str
    network: nn.Module
    rate_hz: int
    kbps: float
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Any]


@dataclass(frozen=True)
class Measured:
    """Seconds of processor time per second of audio in every repeat."""

    name: str
    rate_hz: int
    kbps: float
    n_values: int
    encode_s: list[float]
    decode_s: list[float]

    @property
    def work_s(self) -> list[float]:
        """Encode plus decode."""
        return [a + b for a, b in zip(self.encode_s, self.decode_s, strict=True)]


def encodec() -> Peer:
    """EnCodec (Defossez 2022), 24 kHz, causal, 75 frames a second, 8 codebooks of 10 bits."""
    from transformers import EncodecConfig, EncodecModel

    model = EncodecModel(EncodecConfig()).eval()
    return Peer(
        "EnCodec 24 kHz",
        model,
        24_000,
        6.0,
        lambda wav: model.encode(wav, bandwidth=6.0),
        lambda sent: model.decode(sent.audio_codes, sent.audio_scales),
    )


def mimi() -> Peer:
    """Mimi (Defossez 2024), 24 kHz, causal, 12.5 frames a second, 8 codebooks of 11 bits."""
    from transformers import MimiConfig, MimiModel

    model = MimiModel(MimiConfig()).eval()
    return Peer(
        "Mimi 24 kHz",
        model,
        24_000,
        1.1,
        lambda wav: model.encode(wav, num_quantizers=8),
        lambda sent: model.decode(sent.audio_codes),
    )


def dac() -> Peer:
    """DAC (Kumar 2023), 16 kHz, 50 frames a second, 12 codebooks of 10 bits."""
    from transformers import DacConfig, DacModel

    config = DacConfig(downsampling_ratios=[2, 4, 5, 8], n_codebooks=12, sampling_rate=16_000)
    model = DacModel(config).eval()
    return Peer(
        "DAC 16 kHz",
        model,
        16_000,
        6.0,
        model.encode,
        lambda sent: model.decode(audio_codes=sent.audio_codes),
    )


def ours(codec: Codec) -> list[Peer]:
    """The network alone with 12 stages, and the stream as `telucodec encode --kbps 6` writes it."""
    rate_hz = codec.config.sample_rate_hz

    def to_codes(wav: Tensor) -> tuple[Tensor, int]:
        return codec.encode(wav)[:, : round(KBPS / codec.config.stage_kbps)], wav.shape[-1]

    def to_stream(wav: Tensor) -> bytes:
        encoder = StreamEncoder(codec, kbps=KBPS, is_held=True)
        body = encoder.push(wav[0, 0].numpy()) + encoder.flush()
        head = encoder.finished_header.to_bytes()
        return head + body[len(head) :]

    def from_stream(data: bytes) -> Any:
        decoder = StreamDecoder(codec)
        return np.concatenate([decoder.push(data), decoder.flush()])

    return [
        Peer(OURS, codec, rate_hz, KBPS, to_codes, lambda sent: codec.decode(sent[0], n_samples=sent[1])),
        Peer("telucodec, whole stream", codec, rate_hz, KBPS, to_stream, from_stream),
    ]


def run(peers: list[Peer], clip: Path, repeats: int) -> list[Measured]:
    """Every peer on the clip ``repeats`` times, after once that does not count."""
    wavs = {rate_hz: read_audio(clip, rate_hz)[0][None] for rate_hz in {peer.rate_hz for peer in peers}}
    found = [Measured(peer.name, peer.rate_hz, peer.kbps, n_weights(peer.network), [], []) for peer in peers]
    for repeat in range(repeats + 1):
        for step in range(len(peers)):
            index = (repeat + step) % len(peers)
            peer, wav = peers[index], wavs[peers[index].rate_hz]
            start_s = time.process_time()
            sent = peer.encode(wav)
            middle_s = time.process_time()
            peer.decode(sent)
            end_s = time.process_time()
            if repeat:
                seconds = wav.shape[-1] / peer.rate_hz
                found[index].encode_s.append((middle_s - start_s) / seconds)
                found[index].decode_s.append((end_s - middle_s) / seconds)
    return found


def n_weights(network: nn.Module) -> int:
    """Weights and codebooks, without the running averages that training keeps of the latter."""
    values = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    averages = ("embed_avg", "cluster_", "initialized", "inited")
    return sum(v.numel() for name, v in values.items() if not any(word in name for word in averages))


def table(found: list[Measured]) -> Table:
    """Medians over the repeats, with the fastest and slowest, and the ratio to our network."""
    base = next(item.work_s for item in found if item.name == OURS)
    lines = []
    for item in found:
        ratio = float(np.median(np.divide(item.work_s, base)))
        work = f"{np.median(item.work_s):.3f} [{min(item.work_s):.3f}, {max(item.work_s):.3f}]"
        encode, decode = (f"{np.median(values):.3f}" for values in (item.encode_s, item.decode_s))
        size = f"{item.n_values / 1e6:.1f}"
        lines.append((item.name, f"{item.kbps:g}", size, encode, decode, work, f"{ratio:.1f}"))
    return Table(
        ("codec", "kbps", "M weights", "encode s/s", "decode s/s", "both", "times ours"), tuple(lines)
    )


def main() -> None:
    """Build, run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clip", type=Path, default=ROOT / "data" / "clips" / "te-cv-42973999.flac")
    parser.add_argument("--model", default="speech-16k")
    parser.add_argument("--out", type=Path, default=Path("out/peers"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        import transformers
    except ImportError:
        raise SystemExit("transformers is not installed; pip install 'transformers>=4.45'") from None
    with torch.inference_mode():
        peers = [*ours(open_codec(chosen.model, device="cpu")), encodec(), mimi(), dac()]
        found = run(peers, chosen.clip, chosen.repeats)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    result = {
        "machine": machine() | versions,
        "clip": chosen.clip.name,
        "codecs": [asdict(item) for item in found],
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "peers.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (chosen.out / "peers.md").write_text(table(found).to_markdown() + "\n", encoding="utf-8")
    print(table(found).to_markdown())


if __name__ == "__main__":
    main()
