"""`eom check`: the self-test of a user's own model in the terminal."""

from dataclasses import asdict

from rich.console import Console

from eom.analysis.self_test import print_self_test
from eom.objective import Objective
from eom.target import load


def check_target(target: str, order: int, console: Console | None = None) -> bool:
    """Print the self-test of PACKAGE.MODULE:FUNCTION; whether there is a right route to H v."""
    console = console or Console()
    check = Objective(*load(target)).check(order)
    print_self_test([asdict(probe) for probe in check.probes], console)
    second = check.product if check.conservative else "none, as the gradient is not that of the loss"
    third = "by triple backward" if check.third else "withheld, use the log map"
    console.print(
        f"H v: {second if check.second else 'none'}; T: {third if order > 1 else 'not asked for'}; "
        f"probed in {check.dtype}."
    )
    console.print(
        "H is the Hessian, T(v, v) its derivative along v, times v; u and v are random directions. Good: errors below "
        "their limits, which grow with what kinks and curvature leave open between forward and backward differences.",
        style="dim",
    )
    return check.second and check.conservative
