"""`eom sweep` and `eom compare` in the terminal."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from eom.analysis.compare import Comparison, check_wanted, compare
from eom.analysis.verdict import verdict
from eom.analysis.words import count
from eom.errors import SettingError, SweepWarning

T = TypeVar("T")


def compare_runs(runs: Sequence[Path], out: Path | None, wanted: float, console: Console) -> None:
    """Compare recorded runs on a page, and print what it says first."""
    found = compare(runs)
    tell(found, found.report(out, wanted), wanted, console)


def run_sweep(
    target: str,
    lr: str,
    steps: int | None,
    time: float | None,
    out: Path,
    wanted: float,
    swept: Mapping[str, str],
    settings: Mapping[str, Any],
) -> None:
    """Train PACKAGE.MODULE:FUNCTION at the rates of ``lr``, and compare the runs on a page there."""
    import typer

    from eom.sweeps.sweep import sweep  # which loads torch
    from eom.target import function

    sizes = listed("--batch-sizes", swept["batch_sizes"], int) if swept["batch_sizes"] else (None,)
    console = Console()
    rates = listed("--lr", lr, float)
    check_wanted(wanted)
    with warnings.catch_warnings(record=True, category=SweepWarning) as said:
        warnings.simplefilter("always", SweepWarning)
        runs = sweep(
            function(target),
            rates,
            steps,
            time=time,
            out=out,
            seeds=listed("--seeds", swept["seeds"], int),
            batch_sizes=sizes,
            optimizers=listed("--optimizers", swept["optimizers"], str),
            console=console,
            **settings,
        )
    console.print()
    for warning in said:
        console.print(Text(str(warning.message), "yellow"))
    if not any("finished" in run.manifest for run in runs):
        console.print(f"no run of {out} came to its end")
        raise typer.Exit(1)
    if len(runs) < 2:
        console.print(f"{count(len(runs), 'run')} in {out}: a comparison takes two")
    else:
        compare_runs([out], out, wanted, console)


def listed(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """The values of an option, between commas.

    Raises:
        SettingError: one of them is of another kind.
    """
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise SettingError(f"{option} is {text!r}, expected values with commas between them ({error})") from error


def tell(comparison: Comparison, page: Path, wanted: float, console: Console) -> None:
    """Print the sentences of a comparison, and where its page is."""
    for sentence in verdict(comparison, wanted):
        console.print(Text("• " + sentence))
    for name, why in comparison.others.items():
        console.print(Text(f"not compared: {name}: {why}", "yellow"))
    console.print(f"comparison: {page}", soft_wrap=True)
