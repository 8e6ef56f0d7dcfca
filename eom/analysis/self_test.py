"""The self-test of a run's derivatives as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eom.analysis.words import number

COLUMNS = {
    "check": "check",
    "route": "route",
    "value": "error",
    "limit": "limit",
    "verdict": "verdict",
    "remedy": "what it means, what to do",
}

LEGEND = (
    "H is the Hessian of the loss, T(v, v) its derivative along v, times v; u and v are random directions. Errors are "
    "relative. Good: below their limits, which grow with what kinks and curvature leave open between forward and "
    "backward differences."
)
STYLES = {"passed": "green", "failed": "bold red", "noted": "yellow"}


def self_test(probes: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """{column: text} of every probe; a value that JSON has no number for was written as null."""
    return [{title: _text(probe, key) for key, title in COLUMNS.items()} for probe in probes]


def taken(manifest: Mapping[str, Any]) -> str:
    """How a run took its derivatives, in a sentence; nothing where it took none."""
    routes = manifest.get("routes") or {}
    if not routes:
        return ""
    what = "H v was" if routes.get("second", True) else "There is no H of the loss; derivatives of its gradient were"
    return f"{what} taken by {routes['product']}, and tested in {routes['dtype']}."


def print_self_test(probes: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What was tested, in the terminal; below it what is noted and to be done."""
    *columns, remedy = COLUMNS.values()
    table, remarks = Table(*columns, box=SIMPLE_HEAD, pad_edge=False), {}
    for row in self_test(probes):
        if row["verdict"] != "noted":
            table.add_row(*(Text(row[c], STYLES.get(row["verdict"], "") if c == "verdict" else "") for c in columns))
        if row[remedy]:
            remarks.setdefault(row[remedy], row["check"])  # each once
    console.print(table)
    for text, check in remarks.items():
        console.print(Text(f"• {check}: {text}"))


def _text(probe: Mapping[str, Any], key: str) -> str:
    value = probe.get(key, "")
    if key not in ("value", "limit"):
        return str(value)
    if probe.get("verdict") == "noted":
        return ""  # its numbers are in its words
    return "not finite" if value is None else number(value)
