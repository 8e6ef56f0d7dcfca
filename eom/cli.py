"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The equation of motion of gradient descent, measured on your own training run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a recorded run.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; beside the run by default.")]


Target = Annotated[
    str, typer.Argument(metavar="PACKAGE.MODULE:FUNCTION", help="A function that returns (model, loss_fn, data).")
]


class Format(StrEnum):
    """What a run can be exported to."""

    parquet = "parquet"
    csv = "csv"
    json = "json"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="A new folder for the runs and the report.")] = Path("eom-demo"),
    small: Annotated[bool, typer.Option(help="A tenth of the digits, fewer steps: 30 seconds.")] = False,
    stochastic: Annotated[bool, typer.Option(help="Networks, samplers and SGD as stochastic equations.")] = False,
    physics: Annotated[bool, typer.Option(help="Laws of motion learned from pendulums and from waves.")] = False,
) -> None:
    """Train a small network on real digits at four learning rates, and compare theory and runs."""
    hold_threads_still()
    if stochastic and physics:
        raise typer.BadParameter("--stochastic and --physics are two demonstrations: choose one")
    if physics:
        from eom.physics_demo import run_physics_demo

        run_physics_demo(out, small=small)
    elif stochastic:
        from eom.stochastic_demo import run_stochastic_demo

        run_stochastic_demo(out, small=small)
    else:
        from eom.demo import run_demo

        run_demo(out, small=small)


@app.command()
def report(run: RunFolder, out: Out = None) -> None:
    """Write one self-contained HTML page about a run."""
    from eom.analysis.report import report as write

    typer.echo(write(run, out))


@app.command()
def show(run: RunFolder) -> None:
    """Print a run's table per layer, its conclusion and its events."""
    from eom.analysis.show import show as print_run

    print_run(run)


@app.command()
def export(
    run: RunFolder,
    to: Annotated[Format, typer.Option(help="Format of the file.")],
    out: Out = None,
) -> None:
    """Write a run's table to one file."""
    from eom.analysis.export import export as write

    typer.echo(write(run, to.value, out))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or a folder that holds them.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page to write, or a folder for it.")] = None,
    wanted: Annotated[float, typer.Option(help="Error, as a share of the rate, to find the largest lr for.")] = 0.01,
) -> None:
    """Write one page about runs that differ in their learning rate, and print its summary."""
    from rich.console import Console

    from eom.sweeping import compare_runs

    compare_runs(runs, out, wanted, Console())


@app.command()
def sweep(
    target: Target,
    lr: Annotated[str, typer.Option(help="Learning rates, such as .1,.05,.02.")],
    steps: Annotated[int | None, typer.Option(help="Of every run; or --time.")] = None,
    time: Annotated[float | None, typer.Option(help="Sum of learning rates that every run is to reach.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs; called again it goes on.")] = Path(
        "sweep"
    ),
    seeds: Annotated[str, typer.Option(help="Of the generators, before the function is called.")] = "0",
    batch_sizes: Annotated[str, typer.Option(help="Cut the data into shuffled batches of these sizes.")] = "",
    optimizers: Annotated[str, typer.Option(help="Names in torch.optim.")] = "SGD",
    jobs: Annotated[int | None, typer.Option(help="Runs at once; as many as there are cores.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of each run; so that the cores are used once.")] = None,
    every: Annotated[int, typer.Option(help="Steps from one record to the next.")] = 10,
    order: Annotated[int, typer.Option(help="Highest order predicted.", min=0, max=2)] = 1,
    sharpness: Annotated[int, typer.Option(help="Records from one sharpness to the next; 0 for never.")] = 5,
    wanted: Annotated[float, typer.Option(help="Error, as a share of the rate, to find the largest lr for.")] = 0.01,
) -> None:
    """Train one model at many learning rates, in parallel, and compare them on one page."""
    hold_threads_still()
    from eom.sweeping import run_sweep

    swept = {"seeds": seeds, "batch_sizes": batch_sizes, "optimizers": optimizers}
    settings = {"jobs": jobs, "threads": threads, "every": every, "order": order, "sharpness": sharpness}
    run_sweep(target, lr, steps, time, out, wanted, swept, settings)


@app.command()
def check(
    target: Target,
    order: Annotated[int, typer.Option(help="2 tests third derivatives as well.", min=1, max=2)] = 2,
) -> None:
    """Test the derivatives of your own model; status 1 where a probe failed, whether or not another route is right."""
    from eom.checking import check_target

    raise typer.Exit(0 if check_target(target, order) else 1)


def hold_threads_still() -> None:
    """Before torch is loaded: threads that wait by spinning slow it many times where another process wants a core."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main() -> None:
    """Run a command; errors of this package end it with their message and status 1."""
    from eom.errors import EomError

    try:
        app(standalone_mode=True)
    except EomError as error:
        typer.echo(f"eom: {error}", err=True)
        raise SystemExit(1) from None
