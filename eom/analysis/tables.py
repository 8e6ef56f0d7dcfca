"""The tables of a report and of the terminal: one row per layer."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from eom.analysis.errors import DISPLACEMENT, RATE, REFERENCES, layer_table, orders
from eom.analysis.reading import Reading
from eom.analysis.words import label, number, quantity_name, source_name

ROWS = 400  # of a table on the page; an export has all


class Cell(NamedTuple):
    """What a cell shows, and what it sorts by."""

    text: str
    key: float | str


class Table(NamedTuple):
    """A table with its headers (title, unit) and a line that says what is good."""

    title: str
    note: str
    headers: list[tuple[str, str]]
    rows: list[list[Cell]]

    @property
    def texts(self) -> int:
        """How many columns hold text, from the left."""
        return sum(isinstance(cell.key, str) for cell in self.rows[0]) if self.rows else 0


def tables(reading: Reading) -> Iterator[Table]:
    """Of every quantity that was predicted, norms by their squares."""
    for quantity in quantities(reading):
        found = table_of(reading, quantity)
        if found.rows:
            yield found


def quantities(reading: Reading) -> list[str]:
    """Everything predicted, norms by their squares: first their rates and displacements, then the rest."""
    table = reading.table()
    predicted = table.quantity.loc[~table.source.isin(REFERENCES)].unique()
    recorded = [q for q in predicted if not q.startswith("norm_") or "squared" in q]
    first = [RATE, DISPLACEMENT, "position_error"]
    return [q for q in first if q in recorded] + [q for q in recorded if q not in first]


def table_of(reading: Reading, quantity: str) -> Table:
    """One row per layer: the measured value; of each source the value, its error and its bar."""
    numbers = layer_table(reading, quantity)
    sources = orders(numbers.reset_index()) or sorted(numbers.index.unique("source"))
    unit = reading.unit(quantity)
    last = sources[-1] if sources else ""
    compared = last not in ("", "order-0")
    measured = quantity != "position_error"

    headers = [("layer", ""), ("kind", "")]
    headers += [("measured", unit), ("bar of measured", unit)] if measured else []
    for name in map(source_name, sources):
        headers += [(name, unit)] if measured else []
        headers += [(f"error of {name}", unit), (f"bar of {name}", unit)]
    headers += [(f"{source_name(last)} within 2 bars", "%")]
    headers += [(f"{source_name(last)} over gradient flow", "")] if compared else []
    kinds = reading.manifest.get("layers") or {}
    rows = []
    for group, found in by_group(numbers).items():
        any_source = next(iter(found.values()))
        end, kind = found.get(last, {}), kinds.get(group, "")
        row = [Cell(label(group, 80), label(group)), Cell(label(kind, 40) if kind else "", kind)]
        row += [amount(any_source["measured"]), amount(any_source["measured_bar"])] if measured else []
        shown = ["predicted", "error", "bar"] if measured else ["error", "bar"]
        row += [amount(found.get(source, {}).get(what, math.nan)) for source in sources for what in shown]
        row += [amount(100 * end.get("covered", math.nan))]
        row += [amount(end.get("over_flow", math.nan))] if compared else []
        rows.append(row)
    cut = f" The first {ROWS} of {len(rows)} rows; an export has all." if len(rows) > ROWS else ""
    note = (
        "Medians over the records, of errors and bars by their size. Good: errors that fall from order to order, "
        f"close to 100 % within twice the bar.{cut}"
    )
    return Table(quantity_name(quantity), note, headers, rows[:ROWS])


def by_group(numbers: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """The rows of ``layer_table`` by group and source."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (group, source), row in numbers.to_dict("index").items():  # type: ignore[misc] - two-level index
        found.setdefault(group, {})[source] = row
    return found


def amount(value: float) -> Cell:
    return Cell("–" if math.isnan(value) else number(value), value)
