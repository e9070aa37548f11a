"""Running figures of an epoch and the lines a person reads at its end."""

import torch

from telucodec.train.loop import StepResult


class EpochMeter:
    """Running figures of an epoch: means of the terms, extremes of the output."""

    def __init__(self) -> None:
        self.n_steps = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}  # of steps that had the term: an adversary may come in late
        self.low = self.high = torch.zeros(())

    def add(self, result: StepResult) -> None:
        self.n_steps += 1
        for name, value in result.terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.low = torch.minimum(self.low, result.terms["output_min"].cpu())
        self.high = torch.maximum(self.high, result.terms["output_max"].cpu())

    def lines(self, step: int, steps_per_epoch: int, figures: dict[str, float]) -> list[str]:
        """What the person in front of the run reads at the end of an epoch."""
        epoch = f"epoch {-(-step // steps_per_epoch) - 1} (step {step})"
        if not self.n_steps:
            return [f"{epoch}  every update was skipped"]
        mean = {name: value.item() / self.counts[name] for name, value in self.sums.items()}
        terms = "  ".join(
            f"{name} {mean[name]:.4f}"
            for name in (
                "l1",
                "mse",
                "rms",
                "range",
                "stft",
                "mel",
                "spectrum",
                "disturbance",
                "envelope",
                "similarity",
                "average_spectrum",
            )
            if name in mean
        )
        lines = [
            f"{epoch}  loss {mean['total']:.4f}  {terms}",
            f"  output [{self.low.item():.3f}, {self.high.item():.3f}]  DC mean {mean['output_dc']:+.5f}  "
            f"range ratio {mean['range_ratio']:.3f}  output_scale {mean['output_scale']:.4f}",
            f"  VQ loss {mean['vq']:.4f} (codebook {mean['codebook']:.4f}, "
            f"commitment {mean['commitment']:.4f})  "
            f"SNR {mean['snr_db']:.2f} dB  grad norm {mean['grad_norm']:.2f}",
        ]
        if "adversary/loss" in mean:
            features = f"  features {mean['adversary/features']:.3f}" if "adversary/features" in mean else ""
            loss, accuracy = mean["adversary/loss"], mean["adversary/accuracy"]
            lines.append(f"  adversary: loss {loss:.3f}  told rightly {accuracy:.1%}{features}")
        rates = [name.partition("@")[2] for name in figures if name.startswith("valid/snr_db@")]
        if rates:
            shown = (
                f"{r} kbps {figures[f'valid/snr_db@{r}']:.2f} dB {figures[f'valid/range_ratio@{r}']:.2f}"
                for r in rates
            )
            lines.append(f"  validation SNR and range ratio: {'  '.join(shown)}")
        return lines
