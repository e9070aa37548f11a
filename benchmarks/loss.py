"""Lost packets: concealment against repeating the last frame and silence, as JSON and a Markdown table.

    python benchmarks/loss.py FOLDER --model DIR [--kbps 6] [--clips 20] [--seeds 2] [--out loss.json]

Packets of one frame (20 ms) are lost by the line of Gilbert with bursts of two in the mean; the same are lost
for every method. Figures compare with the recordings, so the loss of 0 % is the codec itself. Means, and in
brackets by how much the concealment is ahead; the JSON has the standard error of that over runs.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitstream import machine
from numpy.typing import NDArray
from torch import Tensor

from telucodec.allocation import plan_stages
from telucodec.audio import find_audio, read_audio
from telucodec.decoding import FILE_FRAMES, LatentDecoder
from telucodec.evaluate.loss import gilbert
from telucodec.evaluate.metrics import measure
from telucodec.model.codec import Codec, stages_of
from telucodec.model.postfilter import filter_of
from telucodec.pipeline import open_codec

RATES = (0.0, 0.01, 0.03, 0.05, 0.10, 0.20)
TO_GOOD = 0.5
OURS = "concealment"
SHOWN = ("pesq_wb", "stoi")

Figures = dict[tuple[float, str], dict[str, float]]
"""Metrics by loss rate and method."""


def concealed(codec: Codec, codes: NDArray[np.uint16], lost: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Codes ``[Q, L]`` to ``[L * hop]`` as the stream decoder makes up what is lost."""
    network, parts = LatentDecoder(codec, len(codes), FILE_FRAMES), []
    for indices in np.split(np.arange(len(lost)), np.flatnonzero(np.diff(lost)) + 1):
        if lost[indices[0]]:
            parts += [network.bridge(1, int(index)) for index in indices]
        else:
            parts.append(network.decode(codes[:, indices]))
    return np.concatenate([*parts, network.finish()])[network.lag :]


def repeated(latents: Tensor, lost: NDArray[np.bool_]) -> Tensor:
    """The last frame that arrived, for as long as it takes; nothing before the first."""
    arrived = np.maximum.accumulate(np.where(lost, -1, np.arange(len(lost))))
    return latents[..., np.maximum(arrived, 0)] * torch.from_numpy(arrived >= 0).float()


def silenced(latents: Tensor, lost: NDArray[np.bool_]) -> Tensor:
    """Nothing in place of what is lost."""
    return latents * torch.from_numpy(~lost).float()


def filtered(codec: Codec, wav: Tensor, depths: Tensor) -> NDArray[np.float32]:
    """``[1, 1, T]`` of frames of ``depths`` ``[1, L]`` stages as the stream decoder filters it, ``[T]``."""
    postfilter = filter_of(codec)
    if postfilter is not None:
        n_more = postfilter.delay // codec.config.hop
        ended = torch.nn.functional.pad(wav, (0, postfilter.delay))
        known = torch.nn.functional.pad(depths, (0, n_more))
        state: Any = postfilter.initial_state(wav)
        wav = postfilter.step(ended, state, known)[0][..., postfilter.delay :]
    return np.asarray(wav[0, 0].numpy())


BASELINES: dict[str, Callable[[Tensor, NDArray[np.bool_]], Tensor]] = {
    "repeat last": repeated,
    "silence": silenced,
}


@torch.inference_mode()
def figures(codec: Codec, path: Path, seed: int, n_codebooks: int) -> Figures:
    """Metrics of one clip by loss rate and method."""
    rate_hz, delay = codec.config.sample_rate_hz, codec.config.delay
    wav = read_audio(path, rate_hz)[0]  # [1, T]
    codes = codec.encode(wav[None], n_codebooks=n_codebooks)
    latents = codec.quantizer.decode(codes)
    found = {}
    for rate in RATES:
        lost = gilbert(latents.shape[-1], TO_GOOD * rate / (1 - rate), TO_GOOD, seed)
        estimates = {
            name: filtered(codec, codec.decoder(fill(latents, lost)), stages_of(codes))
            for name, fill in BASELINES.items()
        }
        estimates[OURS] = concealed(codec, codes[0].numpy().astype(np.uint16), lost)
        for name, estimate in estimates.items():
            heard = estimate[delay : delay + wav.shape[-1]]
            found[rate, name] = measure(wav[0].numpy(), heard, rate_hz, SHOWN).values
    return found


def row(runs: list[Figures], rate: float, method: str, n_clips: int) -> dict[str, Any]:
    """Means of a method at a loss rate, and by how much the concealment is ahead of it, run by run."""
    found: dict[str, Any] = {"loss": rate, "method": method, "n_clips": n_clips, "n_runs": len(runs)}
    for key in SHOWN:
        ours, theirs = (
            np.array([run[rate, name].get(key, np.nan) for run in runs]) for name in (OURS, method)
        )
        leads = (ours - theirs)[~np.isnan(ours - theirs)]
        found[key] = float(np.nanmean(theirs))
        if method != OURS:
            found[f"{key}_lead"] = float(leads.mean())
            found[f"{key}_lead_error"] = float(leads.std(ddof=1) / len(leads) ** 0.5)
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each loss rate, a column for each method; PESQ-WB / STOI."""
    print(f"| loss | {' | '.join((OURS, *BASELINES))} |\n|---:|{'---:|' * (1 + len(BASELINES))}")
    for rate in RATES:
        cells = [
            f"{row['pesq_wb']:.2f} / {row['stoi']:.3f}"
            + (f" ({row['pesq_wb_lead']:+.3f} / {row['stoi_lead']:+.4f})" if "stoi_lead" in row else "")
            for row in rows
            if row["loss"] == rate
        ]
        print(f"| {rate:.0%} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="speech-16k")
    parser.add_argument("--kbps", type=float, default=6.0)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1, help="losses to try on each clip")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    codec = open_codec(chosen.model, device="cpu")
    n_codebooks = plan_stages(codec.config, codec.folder, kbps=chosen.kbps, entropy="static").n_codebooks
    files = find_audio(chosen.folder)
    files = files[:: max(1, len(files) // chosen.clips)][: chosen.clips]
    runs = [
        figures(codec, path, seed, n_codebooks)
        for seed, path in enumerate(path for path in files for _ in range(chosen.seeds))
    ]
    rows = [row(runs, rate, name, len(files)) for rate in RATES for name in (OURS, *BASELINES)]
    print_table(rows)
    if chosen.out:
        result = {"machine": machine(), "kbps": chosen.kbps, "model_id": codec.weights_id.hex(), "rows": rows}
        chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
