"""What the container costs: bytes beside the codes, speed of packing and parsing, as JSON.

    python benchmarks/bitstream.py [--seconds 60] [--codebooks 6 12]

Codes are random, 50 frames/s of 10 bits, so that no model is needed. `seconds_per_s` is work per second of
audio, the best of five runs.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from telucodec.bitstream.bitpack import pack, unpack
from telucodec.bitstream.coder import FixedWidthCoder
from telucodec.bitstream.container import HEADER_BYTES, Stream, summarize, truncate

RATE_HZ, HOP, BITS = 16_000, 320, 10
N_RUNS = 5


def machine() -> dict[str, Any]:
    """Where and from what the figures come."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":")[1].strip() if named else model
    return {"cpu": model, "python": platform.python_version(), "commit": commit.strip()}


def best_s(work: Callable[[], object]) -> float:
    """Seconds of processor time of the fastest of several runs."""
    times = []
    for _ in range(N_RUNS):
        start_s = time.process_time()
        work()
        times.append(time.process_time() - start_s)
    return min(times)


def measure(seconds: float, n_codebooks: int, frames_per_packet: int) -> dict[str, Any]:
    """Sizes and speeds of one stream."""
    n_samples = round(seconds * RATE_HZ)
    n_frames = -(-(n_samples + HOP) // HOP)
    codes = np.random.default_rng(0).integers(0, 1 << BITS, (n_codebooks, n_frames)).astype(np.uint16)
    stream = Stream(
        sample_rate_hz=RATE_HZ, hop=HOP, delay=HOP, n_codebooks=n_codebooks, codeword_bits=BITS,
        n_samples=n_samples, model_id=bytes(8), frames_per_packet=frames_per_packet, codes=codes,
    )  # fmt: skip
    data, packed = stream.to_bytes(), pack(codes, BITS)
    summary = summarize(data)
    work = {
        "pack": lambda: pack(codes, BITS),
        "unpack": lambda: unpack(packed, n_codebooks=n_codebooks, n_frames=n_frames, codeword_bits=BITS),
        "write": stream.to_bytes,
        "parse": lambda: summarize(data),
        "truncate": lambda: b"".join(truncate([data], FixedWidthCoder(BITS), max(1, n_codebooks // 2))),
    }
    return {
        "seconds": seconds,
        "n_codebooks": n_codebooks,
        "frames_per_packet": frames_per_packet,
        "header_bytes": HEADER_BYTES,
        "overhead_bytes": summary.file_bytes - summary.payload_bytes,
        "overhead_share": (summary.file_bytes - summary.payload_bytes) / summary.payload_bytes,
        "file_kbps": summary.file_kbps,
        "payload_kbps": summary.payload_kbps,
        "bits_per_code": 8 * summary.payload_bytes / codes.size,
        "seconds_per_s": {name: best_s(job) / seconds for name, job in work.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 60.0])
    parser.add_argument("--codebooks", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--packet-frames", type=int, nargs="+", default=[1, 25])
    chosen = parser.parse_args()
    rows = [
        measure(seconds, n_codebooks, frames)
        for seconds in chosen.seconds
        for n_codebooks in chosen.codebooks
        for frames in chosen.packet_frames
    ]
    print(json.dumps({"machine": machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
