"""What the entropy stage saves and what it costs: bits per code per stage, size against fixed width, speed.

    python benchmarks/entropy.py --model speech-16k --data-dir DEV [--stages 6 12 18] [--packet-frames 25]

Prints one JSON object. Sizes count `HEADER_BYTES` per file and `PACKET_BYTES` per packet on both sides.
``saved`` is for all files together; ``by_folder`` names the first folder below ``--data-dir``.
"""

import argparse
import json
import math
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from telucodec.audio import find_audio, read_audio
from telucodec.pipeline import find_model, open_codec
from telucodec.prior.coder import EntropyCoder
from telucodec.prior.network import NETWORK
from telucodec.prior.predictor import blank_sheet
from telucodec.prior.tables import TABLES

HEADER_BYTES, PACKET_BYTES = 48, 6  # a file's header; a packet's length and CRC-32


def packets(codes, n_stages, n_frames):
    """The packets ``[n_stages, <= n_frames]`` of one file."""
    starts = range(0, codes.shape[1], n_frames)
    return [np.ascontiguousarray(codes[:n_stages, start : start + n_frames]) for start in starts]


def stage_bits(predictor, files, n_frames):
    """``[Q]`` bits per code that the model asks for, before whole bytes."""
    bits, n_codes = np.zeros(predictor.n_codebooks), 0
    for codes in files:
        for packet in packets(codes, predictor.n_codebooks, n_frames):
            n_frames_here = packet.shape[1]
            n_codes += n_frames_here
            sheet, (start,) = blank_sheet([n_frames_here], predictor)
            sheet.codes[start : start + n_frames_here] = packet.T
            for stage in range(len(packet)):
                for columns in predictor.batches(stage, start + np.arange(n_frames_here)):
                    odds, symbols = predictor.odds(sheet, [(stage, columns)]), predictor.symbols[stage]
                    groups, places = np.divmod(symbols[sheet.codes[columns, stage]], predictor.group_size)
                    rows = np.arange(len(columns))
                    shares = odds.groups[rows, groups], odds.inside(groups)[rows, places]
                    bits[stage] -= sum(np.log2((share.astype(float) + 1) / 2**24).sum() for share in shares)
    return (bits / n_codes).round(3).tolist()


def measure(coder, files, n_stages, n_frames, codeword_bits, frame_rate_hz):
    """Bytes of all files in fixed width and coded, and seconds of audio per second of work."""
    fixed = coded = 0
    seconds = sum(codes.shape[1] for codes in files) / frame_rate_hz
    encode_s = decode_s = 0.0
    for codes in files:
        fixed += HEADER_BYTES
        coded += HEADER_BYTES
        for packet in packets(codes, n_stages, n_frames):
            start = time.process_time()
            data = coder.encode(packet)
            middle = time.process_time()
            back = coder.decode(data, *packet.shape)
            encode_s, decode_s = encode_s + middle - start, decode_s + time.process_time() - middle
            if not np.array_equal(back, packet):
                raise SystemExit("a packet did not come back")
            fixed += PACKET_BYTES + math.ceil(packet.size * codeword_bits / 8)
            coded += PACKET_BYTES + len(data)
    return {
        "fixed_kbps": round(8e-3 * fixed / seconds, 3),
        "coded_kbps": round(8e-3 * coded / seconds, 3),
        "saved_percent": round(100 * (1 - coded / fixed), 2),
        "encode_x_real_time": round(seconds / encode_s),
        "decode_x_real_time": round(seconds / decode_s),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="speech-16k")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--stages", type=int, nargs="+", default=[6, 12, 18])
    parser.add_argument("--packet-frames", type=int, default=25)
    parser.add_argument("--folders", nargs="+", help="only these folders below --data-dir")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = find_model(options.model)
    codec, coder = open_codec(str(folder), device="cpu"), EntropyCoder.load(folder)
    config, parts = codec.config, [folder / name for name in (TABLES, NETWORK)]
    groups = {}
    for path in find_audio(options.data_dir):
        name = path.relative_to(options.data_dir).parts[0]
        if not options.folders or name in options.folders:
            wav = torch.as_tensor(read_audio(path, config.sample_rate_hz)[0])[None]
            groups.setdefault(name, []).append(codec.encode(wav)[0].numpy().astype(np.uint16))
    shape = options.packet_frames, config.codeword_bits, config.frame_rate_hz
    everything = [codes for files in groups.values() for codes in files]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "machine": f"{platform.machine()}, 1 thread",
        "commit": commit.stdout.strip(),
        "model_id": codec.model_id.hex(),
        "tables_hash": coder.tables_hash.hex(),
        "tables_bytes": sum(part.stat().st_size for part in parts if part.is_file()),
        "packet_frames": options.packet_frames,
        "bits_per_code": stage_bits(coder.predictor, everything, options.packet_frames),
        "stages": {n: measure(coder, everything, n, *shape) for n in options.stages},
        "by_folder": {
            name: {n: measure(coder, files, n, *shape)["saved_percent"] for n in options.stages}
            | {"bits_per_code": stage_bits(coder.predictor, files, options.packet_frames)}
            for name, files in groups.items()
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
