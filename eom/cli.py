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


class Format(StrEnum):
    """What a run can be exported to."""

    parquet = "parquet"
    csv = "csv"
    json = "json"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="A new folder for the runs and the report.")] = Path("eom-demo"),
    small: Annotated[bool, typer.Option(help="A tenth of the digits, fewer steps: 20 seconds.")] = False,
) -> None:
    """Train a small network on real digits at three learning rates, and report what the theory says of it."""
    # Before torch is loaded: threads that wait by spinning slow it many times where another process wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
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
def check(
    target: Annotated[
        str,
        typer.Argument(metavar="PACKAGE.MODULE:FUNCTION", help="A function that returns (model, loss_fn, data)."),
    ],
    order: Annotated[int, typer.Option(help="2 tests third derivatives as well.", min=1, max=2)] = 2,
) -> None:
    """Test the derivatives of your own model; status 1 where a probe failed, whether or not another route is right."""
    from eom.checking import check_target

    raise typer.Exit(0 if check_target(target, order) else 1)


def main() -> None:
    """Run a command; errors of this package end it with their message and status 1."""
    from eom.errors import EomError

    try:
        app(standalone_mode=True)
    except EomError as error:
        typer.echo(f"eom: {error}", err=True)
        raise SystemExit(1) from None
