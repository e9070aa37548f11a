"""Every number a run can set, in one page. Defaults live here; ``configs/*.toml`` hold differences.

Units are in the names (``_hz``, ``_s``, ``_db``); counts start with ``n_``.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from telucodec.errors import ConfigError

T = TypeVar("T")


def _require(is_met: bool, name: str, value: object, expected: str) -> None:
    if not is_met:
        raise ConfigError(f"{name} is {value!r}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Residual vector quantizer: Q stages of K codewords, coarse to fine."""

    n_codebooks: int = 24  # Q
    codebook_size: int = 1024  # K, a power of two
    search_width: int = 4  # paths kept from stage to stage when codes are chosen; 1 is greedy, and fastest
    codebook_update: str = (
        "ema"  # how codewords learn: "ema" of their vectors, or "gradient" of the codebook loss
    )
    ema_decay: float = 0.99  # of the sums behind EMA codewords, and of the usage counts that find dead ones
    commitment_weight: float = 0.25  # of the commitment loss beside the codebook loss
    dropout: float = 0.7  # share of training items that use a random number of stages, 1 to Q, on average
    revive_below: float = 0.03  # a codeword used less than this share of the mean use is replaced
    sweeps: tuple[int, ...] = ()  # latents that each sweep covers, for lattices (model/lattice.py)

    def __post_init__(self) -> None:
        size, update = self.codebook_size, self.codebook_update
        _require(self.n_codebooks >= 1, "quantizer.n_codebooks", self.n_codebooks, "at least 1")
        _require(
            2 <= size <= 65536 and not size & (size - 1),
            "quantizer.codebook_size",
            size,
            "a power of two <= 65536",
        )
        _require(self.search_width >= 1, "quantizer.search_width", self.search_width, "at least 1")
        _require(update in ("ema", "gradient"), "quantizer.codebook_update", update, '"ema" or "gradient"')
        _require(0 <= self.dropout <= 1, "quantizer.dropout", self.dropout, "a share from 0 to 1")
        _require(0 < self.ema_decay < 1, "quantizer.ema_decay", self.ema_decay, "a number between 0 and 1")
        if self.sweeps:
            self._check_lattice()

    def _check_lattice(self) -> None:
        is_even = all(n > 0 and n % 2 == 0 for n in self.sweeps)
        _require(is_even, "quantizer.sweeps", self.sweeps, "even numbers above 0")
        _require(self.codebook_size == 256, "quantizer.codebook_size", self.codebook_size, "256 with sweeps")
        n_stages = 1 + sum(self.sweeps) // 2
        _require(
            self.n_codebooks == n_stages,
            "quantizer.n_codebooks",
            self.n_codebooks,
            f"{n_stages}: the step, and one for each pair of latents in the sweeps",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shapes of the codec. Two streams are compatible only if all of these and the weights agree."""

    sample_rate_hz: int = 16_000
    hop: int = 320  # samples per frame; also the codec's delay
    fine_hop: int = 40  # hop of the fine path, a divisor of `hop`
    width: int = 320  # channels of the units at the frame rate
    fine_width: int = 96  # channels of the units at the fine rate
    n_encoder_units: int = 2
    n_decoder_units: int = 4
    n_fine_units: int = 5  # on each side
    latent_dim: int = 128  # D
    enhancer_width: int = 0  # channels of the network behind the decoder that knows the pitch; 0: none
    n_enhancer_units: int = 3
    companding: float = 0.6  # exponent of the power law on lapped-transform coefficients; 1 is linear
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        _require(
            8_000 <= self.sample_rate_hz <= 48_000,
            "model.sample_rate_hz",
            self.sample_rate_hz,
            "8000 to 48000",
        )
        _require(self.hop % 2 == 0 and self.hop > 0, "model.hop", self.hop, "an even number of samples")
        _require(
            0 < self.fine_hop < self.hop and self.hop % self.fine_hop == 0 and self.fine_hop % 2 == 0,
            "model.fine_hop",
            self.fine_hop,
            f"an even divisor of model.hop ({self.hop}) below it",
        )
        _require(
            0 < self.latent_dim <= self.hop,
            "model.latent_dim",
            self.latent_dim,
            f"1 to model.hop ({self.hop})",
        )
        _require(0 < self.companding <= 1, "model.companding", self.companding, "an exponent in (0, 1]")
        sweeps = self.quantizer.sweeps
        _require(self.enhancer_width >= 0, "model.enhancer_width", self.enhancer_width, "0 (none) or more")
        _require(
            not (sweeps and self.enhancer_width),
            "model.enhancer_width",
            self.enhancer_width,
            "0 with quantizer.sweeps, which keep the waveform",
        )
        _require(
            max(sweeps, default=0) <= self.latent_dim,
            "quantizer.sweeps",
            sweeps,
            f"up to model.latent_dim ({self.latent_dim})",
        )

    @property
    def delay(self) -> int:
        """Samples by which the output lags the input: the overlap of the lapped transform."""
        return self.hop

    @property
    def latency_ms(self) -> float:
        """Algorithmic latency of the network: one hop to fill a frame and one hop of overlap."""
        return 1000 * (self.hop + self.delay) / self.sample_rate_hz

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate_hz / self.hop

    @property
    def codeword_bits(self) -> int:
        return int(math.log2(self.quantizer.codebook_size))

    @property
    def stage_kbps(self) -> float:
        """Nominal payload rate of one stage at fixed width."""
        return self.frame_rate_hz * self.codeword_bits / 1000


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is cut from the training folder, and what is done to it. Chances are per item, 0 to 1."""

    crop_s: float = 1.0
    min_clip_s: float = 0.5  # shorter clips are skipped and named
    silence_dbfs: float = -60.0  # clips with an RMS below this are skipped and named
    validation_share: float = 0.03  # of the files, by group (folder and speaker prefix); 0 needs val_dir
    val_dir: str = ""  # validate on this folder instead of a split
    level_min_dbfs: float = (
        -32.0
    )  # each crop is scaled to an RMS drawn from this range; equal limits keep one level
    level_max_dbfs: float = -14.0
    is_level_random: bool = True  # False keeps the level of the recording
    speed_chance: float = 0.3  # resampled by up to 12 %: pitch and tempo move together
    equalizer_chance: float = 0.3  # random smooth spectral tilt of up to 9 dB
    noise_chance: float = 0.1  # pink to white noise at 15 to 40 dB SNR
    reverb_chance: float = 0.1  # exponentially decaying noise tail, 0.1 to 0.5 s
    n_workers: int = 0  # processes that prepare batches ahead; 0 prepares them in the training process

    def __post_init__(self) -> None:
        _require(self.crop_s > 0, "data.crop_s", self.crop_s, "a length above 0")
        for name in ("validation_share", "speed_chance", "equalizer_chance", "noise_chance", "reverb_chance"):
            _require(
                0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "a share from 0 to 1"
            )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weight of each loss term; a weight of 0 means that the term is not computed."""

    l1: float = 4.0
    mse: float = 0.0
    rms: float = 4.0
    range: float = 8.0
    stft: float = 0.0
    mel: float = 8.0
    spectrum: float = 5.0
    disturbance: float = 12.0
    envelope: float = 10.0
    similarity: float = 6.0
    average_spectrum: float = 0.5
    vq: float = 10.0  # the higher, the smaller the latents and the nearer the output scale to 1


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warmup and cosine decay."""

    lr: float = 1e-3
    linear_path_lr_share: float = (
        0.1  # of `lr`, for the layers that start as a lapped transform or an identity
    )
    final_lr_share: float = 0.01  # of `lr`, at the planned end
    n_warmup_steps: int = 100
    beta1: float = 0.8
    beta2: float = 0.99
    weight_decay: float = 1e-3
    max_grad_norm: float = 1.0
    weight_ema_decay: float = 0.999  # 0 keeps no averaged weights


BEST_METRICS = ("mel", "l1", "snr_db")
"""Validation figures by which a checkpoint can be the best, at each of ``train.validation_kbps``."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Budget, rhythm and machinery of a run."""

    seed: int = 0
    parts: str = "all"  # what learns: "all"; "decoder" or "enhancer" of given weights; "tables"
    n_epochs: int = 0  # ends the run after this many passes over the training minutes; 0 leaves it to n_steps
    n_steps: int = 10_500
    n_steps_per_epoch: int = 0  # 0 derives it: one pass over the training minutes
    batch_size: int = 12
    precision: str = "auto"  # "32-true", "bf16-mixed", "16-mixed"; "auto": bf16-mixed where it is fast
    device: str = "auto"  # "auto", "cpu" or "cuda"
    n_devices: int = 1
    n_threads: int = 0  # CPU threads of torch; 0 leaves its default
    log_every: int = 20
    validate_every: int = 1000
    save_every: int = 500
    keep_last: int = 2
    validation_kbps: tuple[float, ...] = (1.5, 3.0, 6.0, 9.0)
    best_metric: str = "mel@6"  # lower is better for mel and l1, higher for snr_db
    n_validation_clips: int = 24
    entropy_minutes: float = 30.0  # of training audio that the entropy tables are fitted to at the end

    @property
    def keeps_codes(self) -> bool:
        """Whether encoder and codebooks stay as they were given, so that their streams stay valid."""
        return self.parts in ("decoder", "enhancer")

    def __post_init__(self) -> None:
        known = ("auto", "32-true", "bf16-mixed", "16-mixed")
        _require(
            self.device in ("auto", "cpu", "cuda"), "train.device", self.device, '"auto", "cpu" or "cuda"'
        )
        _require(
            self.parts in ("all", "decoder", "enhancer", "tables"),
            "train.parts",
            self.parts,
            '"all", "decoder", "enhancer" or "tables"',
        )
        _require(self.precision in known, "train.precision", self.precision, f"one of {', '.join(known)}")
        _require(self.batch_size >= 1, "train.batch_size", self.batch_size, "at least 1")
        for name in ("n_steps", "log_every", "validate_every", "save_every", "keep_last"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        _require(
            bool(self.validation_kbps), "train.validation_kbps", self.validation_kbps, "at least one rate"
        )
        measured = [f"{name}@{rate:g}" for name in BEST_METRICS for rate in self.validation_kbps]
        _require(
            self.best_metric in measured,
            "train.best_metric",
            self.best_metric,
            f"one of {', '.join(measured)}",
        )


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Discriminators that learn to tell recordings from the output, and pull it to where they cannot."""

    share: float = 0.0  # norm of the pull at the output over that of all other terms; 0: no adversary
    feature_part: float = 0.5  # of the pull, towards the recording's features; the rest: to be taken for one
    loss: str = "hinge"  # or "squares"
    init_from: str = ""  # run folder or checkpoint to take them from; empty: random weights
    start_step: int = 0  # from which they learn; the codec should have converged
    n_lead_steps: int = 200  # of theirs, before they pull
    lr: float = 3e-4
    max_grad_norm: float = 10.0
    channels: int = 16
    fft_sizes: tuple[int, ...] = (1024, 512, 256)
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)

    def __post_init__(self) -> None:
        _require(self.share >= 0, "adversary.share", self.share, "0 for no adversary, or a number above 0")
        _require(
            0 <= self.feature_part <= 1, "adversary.feature_part", self.feature_part, "a share from 0 to 1"
        )
        _require(self.loss in ("hinge", "squares"), "adversary.loss", self.loss, '"hinge" or "squares"')
        for name in ("start_step", "n_lead_steps"):
            _require(getattr(self, name) >= 0, f"adversary.{name}", getattr(self, name), "at least 0")
        for name in ("lr", "max_grad_norm"):
            _require(getattr(self, name) > 0, f"adversary.{name}", getattr(self, name), "a number above 0")
        _require(self.channels >= 2, "adversary.channels", self.channels, "at least 2")
        is_even = all(n >= 64 and n % 4 == 0 for n in self.fft_sizes)
        _require(is_even, "adversary.fft_sizes", self.fft_sizes, "multiples of 4 from 64 on")
        _require(all(p >= 2 for p in self.periods), "adversary.periods", self.periods, "periods from 2 on")
        _require(
            bool(self.fft_sizes or self.periods),
            "adversary.fft_sizes",
            self.fft_sizes,
            "at least one size, if adversary.periods is empty too",
        )


REACTIONS = ("warn", "rollback", "stop")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What the training doctor does about a doomed run; its rules are in docs/doctor.md."""

    reaction: str = "rollback"  # "warn"; "rollback": once, with half the learning rate, then stop; "stop"
    ignore: tuple[str, ...] = ()  # ids of rules that warn and do nothing else
    n_bad_batches: int = 3  # skipped in a row for values that are not finite, before that is a diagnosis
    max_parameters_m: float = 200.0  # millions; a larger model is refused
    max_memory_gb: float = 0.0  # a larger estimated peak is refused; 0: what the device has
    n_trial_steps: int = 24  # of each of the preflight's two trials: one batch, and the recipe as it stands

    def __post_init__(self) -> None:
        _require(
            self.reaction in REACTIONS, "doctor.reaction", self.reaction, f"one of {', '.join(REACTIONS)}"
        )
        for name in ("n_bad_batches", "n_trial_steps"):
            _require(getattr(self, name) >= 1, f"doctor.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True, kw_only=True)
class FaultConfig:
    """A failure made on purpose, to see that the doctor finds it; empty in every real run."""

    name: str = ""  # one of `telucodec.train.faults.FAULTS`


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run: the tables of a TOML file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    doctor: DoctorConfig = field(default_factory=DoctorConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)

    def __post_init__(self) -> None:
        _require(
            bool(self.model.quantizer.sweeps) == (self.train.parts == "tables"),
            "train.parts",
            self.train.parts,
            '"tables" with quantizer.sweeps, whose lattices need no training, and only with them',
        )
        if self.adversary.share:
            self._check_adversary()

    def _check_adversary(self) -> None:
        _require(
            self.train.parts != "tables",
            "adversary.share",
            self.adversary.share,
            '0 with train.parts = "tables", where nothing learns that it could pull',
        )
        crop, sizes = round(self.data.crop_s * self.model.sample_rate_hz), self.adversary.fft_sizes
        _require(
            max(sizes, default=0) < 2 * crop,
            "adversary.fft_sizes",
            sizes,
            f"sizes below {2 * crop}, twice the samples of data.crop_s",
        )


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file (defaults if None), then apply ``"optim.lr=1e-3"`` style overrides.

    Raises:
        ConfigError: unreadable file, unknown setting (with the nearest known one), wrong type or value.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply_override(table, override)
    return config_from_dict(Config, table)


def config_from_dict(cls: type[T], table: Mapping[str, Any]) -> T:
    """Build a settings dataclass from nested mappings, refusing what it does not know."""
    built: T = _build(cls, table, where="")
    return built


def config_to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, the inverse of `config_from_dict`."""
    return dataclasses.asdict(config)


def _apply_override(table: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        raise ConfigError(f"override {override!r} is not of the form table.name=value, such as optim.lr=1e-3")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    *parents, leaf = dotted.strip().split(".")
    node = table
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {name} is a value, not a table")
    node[leaf] = value


def _build(cls: type, table: Mapping[str, Any], where: str) -> Any:
    if not isinstance(table, Mapping):
        raise ConfigError(f"found {type(table).__name__}; expected a table of settings")
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {where}{near[0]}?" if near else f"; known settings: {', '.join(known)}"
            raise ConfigError(f"unknown setting {where}{name}{hint}")
        wanted = hints[name]
        if isinstance(wanted, type) and is_dataclass(wanted):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{name} is {value!r}; expected a table, [{where}{name}]")
            values[name] = _build(wanted, value, where=f"{where}{name}.")
        else:
            values[name] = _convert(value, wanted, f"{where}{name}")
    return cls(**values)


def _convert(value: Any, wanted: Any, name: str) -> Any:
    if get_origin(wanted) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} is {value!r}; expected a list")
        return tuple(_convert(item, get_args(wanted)[0], name) for item in value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{name} is {value!r}, a {type(value).__name__}; expected {wanted.__name__}")
    if wanted is float and not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; expected a finite number")
    return value
