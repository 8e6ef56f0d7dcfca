"""The runs of a sweep while they are at work, as a table in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from eom.analysis.words import number
from eom.records.table import TABLE
from eom.sweeps.grid import Cell

WIDTH = 7  # columns of a table
TAILS = (1 << 14, 1 << 17, 1 << 20)  # bytes of a table that are looked at, until a loss is among them


def overview(cells: Sequence[Cell], folders: Mapping[Cell, Path], over: Mapping[Cell, str]) -> Table:
    """One row for each run: how far it is, its last recorded loss, and what became of it.

    ``over`` holds the runs that have ended, with what went wrong or nothing.
    """
    table = Table(*("run", "step", "loss", "state"), box=SIMPLE_HEAD, pad_edge=False)
    for cell in cells:
        step, loss = latest(folders[cell])
        if cell in over:
            state = Text(over[cell] or "finished", "red" if over[cell] else "green")
        else:
            state = Text("waiting" if step is None else "at work", "dim" if step is None else "")
        step = cell.steps if over.get(cell) == "" else step
        done = f"{'–' if step is None else step} of {cell.steps}"
        table.add_row(cell.name, done, "–" if loss is None else number(loss), state)
    return table


def latest(folder: Path) -> tuple[int | None, float | None]:
    """Step of the last row of a run's table, and its last loss; None where there is none yet."""
    steps, losses = [], []
    for size in TAILS:
        try:
            with (folder / TABLE).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - size))
                lines = file.read().decode(errors="replace").splitlines()[1:]
        except OSError:
            return None, None
        rows = [row for line in lines if len(row := line.split(",")) == WIDTH and row[0].isdigit()]
        steps = [int(row[0]) for row in rows]
        losses = [float(row[5]) for row in rows if row[2:5] == ["all", "loss", "measured"]]
        if losses:
            break
    return (steps[-1] if steps else None), (losses[-1] if losses else None)
