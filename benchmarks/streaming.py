"""The codec as a stream: real-time factor, delay and memory, as JSON.

    python benchmarks/streaming.py --model DIR [--codebooks 12] [--entropy none] [--minutes 2 20]

Speed: processor time of one thread, noise, packets of the given numbers of frames, encoding and decoding
apart; ``--entropy none`` leaves the network alone. Delay: audio that has gone in when the first sample comes
out, and the slowest packet by the clock. Memory: the peak of a process that encodes and then decodes a file
of so many minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from bitstream import machine

from telucodec.bitstream.coder import ENTROPY_MODES
from telucodec.model.codec import Codec
from telucodec.pipeline import open_codec
from telucodec.streaming import StreamDecoder, StreamEncoder

MEMORY_PROBE = """
import resource, sys
from pathlib import Path
from telucodec.pipeline import EncodeOptions, decode_file, encode_file, open_codec
codec = open_codec(sys.argv[1], device="cpu")
folder = Path(sys.argv[2])
encode_file(codec, folder / "a.wav", folder / "a.codes", options=EncodeOptions(kbps=float(sys.argv[3])))
decode_file(codec, folder / "a.codes", folder / "b.wav")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def speed(
    codec: Codec, n_codebooks: int, frames_per_packet: int, seconds: float, entropy: str | None
) -> dict[str, Any]:
    """Work per second of audio, and delays, for packets of one size."""
    rate_hz, size = codec.config.sample_rate_hz, codec.config.hop * frames_per_packet
    wav = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32)
    encoder = StreamEncoder(
        codec, n_codebooks=n_codebooks, frames_per_packet=frames_per_packet, entropy=entropy
    )
    decoder = StreamDecoder(codec)
    decoder.push(encoder.push(wav[:0]))  # the header, at which a session makes ready
    encode_s, decode_s, packet_s, heard_at = [], [], [], None
    for at in [*range(0, len(wav), size), None]:
        clock_s, start_s = time.perf_counter(), time.process_time()
        data = encoder.flush() if at is None else encoder.push(wav[at : at + size])
        middle_s = time.process_time()
        samples = decoder.push(data)
        decode_s.append(time.process_time() - middle_s)
        encode_s.append(middle_s - start_s)
        if at is None:  # what was held back, with packets for files all of a short signal
            break
        packet_s.append(time.perf_counter() - clock_s)
        if heard_at is None and len(samples):
            heard_at = min(at + size, len(wav))
    return {
        "frames_per_packet": frames_per_packet,
        "n_codebooks": n_codebooks,
        "encode_s_per_s": sum(encode_s) / seconds,
        "decode_s_per_s": sum(decode_s) / seconds,
        "audio_before_first_sample_ms": None if heard_at is None else 1000 * heard_at / rate_hz,
        "median_packet_ms": 1000 * float(np.median(packet_s)),
        "slowest_packet_ms": 1000 * max(packet_s[1:], default=0.0),
    }


def peak_mib(model: str, minutes: float, kbps: float) -> float:
    """Peak memory of a process that encodes and decodes ``minutes`` of noise."""
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        with soundfile.SoundFile(Path(folder) / "a.wav", "w", 16_000, 1) as file:
            for _ in range(round(minutes * 6)):
                file.write(generator.normal(0, 0.1, 160_000))
        command = [sys.executable, "-c", MEMORY_PROBE, model, folder, str(kbps)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="speech-16k")
    parser.add_argument("--codebooks", type=int, default=12)
    parser.add_argument("--kbps", type=float, default=6.0, help="of the files whose memory is measured")
    parser.add_argument("--entropy", choices=list(ENTROPY_MODES), help="of the streams that are timed")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--packet-frames", type=int, nargs="+", default=[1, 2, 5, 25])
    parser.add_argument("--minutes", type=float, nargs="*", default=[])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    codec = open_codec(chosen.model, device="cpu")
    speed(codec, chosen.codebooks, 1, 1.0, chosen.entropy)  # what torch sets up once
    result = {
        "machine": machine() | {"torch": torch.__version__},
        "speed": [
            speed(codec, chosen.codebooks, n, chosen.seconds, chosen.entropy) for n in chosen.packet_frames
        ],
        "peak_mib": {f"{m:g} min": peak_mib(chosen.model, m, chosen.kbps) for m in chosen.minutes},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
