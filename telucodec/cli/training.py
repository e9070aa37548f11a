"""Commands that learn: train, doctor, fit-entropy."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from telucodec.cli.options import Device
from telucodec.cli.root import app
from telucodec.errors import TelucodecError
from telucodec.screen import TrainingScreen, remark

if TYPE_CHECKING:
    from telucodec.train.run import Outcome

# The options of `train`.
TrainConfig = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; what it leaves out has a default.")
]
TrainSet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.NAME=VALUE", help="Change one setting; repeatable."),
]
TrainOut = Annotated[Path | None, typer.Option("--out", help="Run folder. Default: runs/NAME.")]
TrainName = Annotated[
    str | None, typer.Option("--name", help="Name of the run. Default: that of the config file.")
]
TrainResume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="RUN", help="Continue this run folder under its own settings."),
]
TrainInit = Annotated[
    str | None, typer.Option("--init-from", metavar="WEIGHTS", help="Weights to start from.")
]
TrainMaxSteps = Annotated[
    int | None, typer.Option("--max-steps", min=1, help="Planned end of the run, in updates.")
]
TrainMaxMinutes = Annotated[
    float | None, typer.Option("--max-minutes", min=0, help="Stop, save and export after so long.")
]
TrainEpochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Planned end of the run, in passes over the data.")
]
PricePerHour = Annotated[
    float | None, typer.Option(min=0, help="Price of the machine, for estimates and the cost to date.")
]
TrainMaxCost = Annotated[
    float | None, typer.Option("--max-cost", min=0, help="Stop, save and export after so much.")
]
SkipPreflight = Annotated[
    bool, typer.Option("--skip-preflight", help="Start without the checks of `doctor`.")
]
DOOMED = 3  # exit status of a run that the doctor ended, or did not let start


@app.command()
def train(
    data_dir: Annotated[Path, typer.Option(help="Folder of audio, searched recursively.")],
    config: TrainConfig = None,
    overrides: TrainSet = None,
    out: TrainOut = None,
    name: TrainName = None,
    resume: TrainResume = None,
    init_from: TrainInit = None,
    max_steps: TrainMaxSteps = None,
    max_minutes: TrainMaxMinutes = None,
    price_per_hour: PricePerHour = None,
    max_cost: TrainMaxCost = None,
    skip_preflight: SkipPreflight = False,
    epochs: TrainEpochs = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Crops per update.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the network runs.")
    ] = None,
) -> None:
    """Train a codec on a folder of audio; ends with a weights folder that --model takes."""
    if epochs is not None and max_steps is not None:
        raise typer.BadParameter("give --epochs or --max-steps, not both")
    if resume is not None and (out or name or init_from):
        raise typer.BadParameter(
            "--resume continues a run where it lies; leave out --out, --name and --init-from"
        )
    shortcuts = {
        "train.n_steps": max_steps,
        "train.n_epochs": 0 if max_steps is not None else epochs,
        "train.batch_size": batch_size,
        "optim.lr": lr,
        "train.device": device,
    }
    settings = [
        *(overrides or []),
        *(f"{key}={value}" for key, value in shortcuts.items() if value is not None),
    ]

    from telucodec.config import load_config
    from telucodec.pipeline import find_model

    train_run = import_trainer()
    from telucodec.train.budget import Budget

    budget = Budget(max_minutes=max_minutes, price_per_hour=price_per_hour, max_cost=max_cost)
    if resume is not None and config is None:
        from telucodec.train.resume import resumed_settings

        settings = resumed_settings(resume) + settings
    folder = resume or out or Path("runs") / (name or (config.stem if config else "default"))
    weights = find_model(init_from) if init_from is not None else None
    chosen = load_config(config, settings)
    how = {"resume": resume is not None, "init_from": weights, "skip_preflight": skip_preflight}
    with TrainingScreen() as screen:
        outcome = train_run(chosen, data_dir, folder, screen, budget=budget, **how)
    show_outcome(outcome, folder)


def show_outcome(outcome: "Outcome", folder: Path) -> None:
    """Where the weights are, or, with status 3, the diagnosis."""
    if outcome.stopped_by:
        remark(f"stopped by {outcome.stopped_by} at step {outcome.step} of {outcome.n_steps}")
    if outcome.diagnoses:
        typer.echo(f"diagnosis  {folder / 'diagnosis.md'}")
        raise typer.Exit(DOOMED)
    typer.echo(f"weights  {outcome.weights}")


@app.command()
def doctor(
    data_dir: Annotated[Path, typer.Option(help="Folder of audio, searched recursively.")],
    config: TrainConfig = None,
    overrides: TrainSet = None,
    price_per_hour: PricePerHour = None,
) -> None:
    """Look for what would waste a training run before it starts. Status 3: do not start."""
    from telucodec.config import load_config

    import_trainer()
    from telucodec.train.budget import Budget
    from telucodec.train.run import examine_before

    chosen = load_config(config, overrides or [])
    with TrainingScreen() as screen:
        found = examine_before(chosen, data_dir, screen, budget=Budget(price_per_hour=price_per_hour))
    typer.echo(found.verdict)
    if found.serious:
        raise typer.Exit(DOOMED)


@app.command(name="fit-entropy", hidden=True)
def fit_entropy(
    data_dir: Annotated[Path, typer.Option(help="Folder of audio, searched recursively.")],
    model: Annotated[str, typer.Option(help="Name of shipped weights, or a folder written by `train`.")],
    max_minutes: Annotated[float, typer.Option(help="Audio to encode, in minutes, at most.")] = 150.0,
    device: Device = "cpu",
    keep_tables: Annotated[
        bool,
        typer.Option("--keep-tables", help="Leave the tables of the network's stages, and their streams."),
    ] = False,
) -> None:
    """Fit the entropy tables of given weights to a folder of audio, and write them beside the weights."""
    from telucodec.pipeline import choose_device, find_model
    from telucodec.prior.tables import TABLES
    from telucodec.train.entropy import fit_entropy as fit

    folder = find_model(model)
    tables_hash = fit(
        folder, data_dir, max_minutes=max_minutes, device=choose_device(device), keeps_tables=keep_tables
    )
    typer.echo(f"tables   {folder / TABLES}")
    typer.echo(f"hash     {tables_hash.hex()}")


def import_trainer() -> "Callable[..., Outcome]":
    """`train_run`, or the name of the extra to install."""
    try:
        from telucodec.train.run import train_run
    except ModuleNotFoundError as error:
        raise TelucodecError(f"training needs {error.name}; pip install 'telucodec[train]'") from error
    return train_run
