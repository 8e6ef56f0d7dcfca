"""`eom check`: the self-test of a user's own model in the terminal."""

from dataclasses import asdict

from rich.console import Console

from eom.analysis.self_test import LEGEND, print_self_test
from eom.objective import Objective
from eom.target import load


def check_target(target: str, order: int, console: Console | None = None) -> bool:
    """Print the self-test of PACKAGE.MODULE:FUNCTION; whether all of it passed."""
    console = console or Console()
    check = Objective(*load(target)).check(order)
    print_self_test([asdict(probe) for probe in check.probes], console)
    second = check.product if check.second else "none"
    third = "by triple backward" if check.third else "withheld"
    console.print(f"H v: {second}; T: {third if order > 1 else 'not asked for'}; probed in {check.dtype}.")
    console.print(LEGEND, style="dim")
    return check.passed
