"""The card that lies beside exported weights: what they were trained on and what they reached."""

from telucodec.config import Config
from telucodec.model.codec import Codec, count_gmacs_per_s, count_parameters
from telucodec.train.data import Corpus


def model_card(codec: Codec, config: Config, corpus: Corpus, step: int, figures: dict[str, float]) -> str:
    """Markdown with the facts a run knows; licences and limits are for a person to add."""
    model, train = config.model, config.train
    folders: dict[str, int] = {}
    for index, name in enumerate(corpus.names):
        folder = name.rpartition("/")[0] or "."
        folders[folder] = folders.get(folder, 0) + int(corpus.starts[index + 1] - corpus.starts[index])
    rows = [f"| {name} | {size / corpus.rate_hz / 60:.1f} |" for name, size in sorted(folders.items())]
    values = [f"| {name.removeprefix('valid/')} | {value:.3f} |" for name, value in sorted(figures.items())]
    return "\n".join(
        [
            "# Model card",
            "",
            f"telucodec, {model.sample_rate_hz} Hz mono, hop {model.hop}, "
            f"{model.quantizer.n_codebooks} stages of {model.stage_kbps:g} kbps, "
            f"latency of the network {model.latency_ms:g} ms. "
            f"{sum(count_parameters(codec).values()) / 1e6:.2f} M parameters, "
            f"{count_gmacs_per_s(codec):.2f} GMAC per second of audio.",
            "",
            f"Trained for {step} steps of {train.batch_size} x {config.data.crop_s:g} s, seed {train.seed}, "
            f"on {corpus.minutes:.1f} minutes:",
            "",
            "| folder | minutes |",
            "|---|---|",
            *rows,
            "",
            "Validation, by the run itself:",
            "",
            "| figure | value |",
            "|---|---|",
            *values,
            "",
        ]
    )
