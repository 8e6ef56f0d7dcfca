"""A run in the terminal."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eom.analysis.conclusion import conclusion
from eom.analysis.errors import layer_table, orders
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.self_test import taken
from eom.analysis.tables import amount, by_group, quantities
from eom.analysis.words import count, label, quantity_name, source_name

LAYERS, EVENTS = 30, 5  # rows shown
COLUMN = 8  # characters of a column of numbers, with the space before it


def show(run: AnyRun, console: Console | None = None) -> None:
    """Print the table of layers, the conclusion and the last events of a run; readable at 80 columns.

    Raises:
        NotARunError, NewerRunError, DamagedRunError: there is no run to show.
    """
    reading = Reading.of(run)
    console = console or Console()
    for quantity in quantities(reading):
        if quantity == "position_error":  # in the conclusion
            continue
        table = layers(reading, quantity, console.width)
        if table.row_count:
            unit = reading.unit(quantity)
            named = f"{quantity_name(quantity)} [{unit}]" if unit else quantity_name(quantity)
            console.print(Text(f"{named}: what each order predicts, its error and its bar (medians)", "bold"))
            console.print(table)
    for sentence in conclusion(reading):
        console.print(Text("• " + sentence))
    if said := taken(reading.manifest):
        console.print(Text(f"• {said}"))
    events = reading.events()
    for event in events.tail(EVENTS).to_dict("records"):
        console.print(Text(f"step {event['step']}: {label(event['kind'])}: {label(event['message'])}", "yellow"))
    if len(events) > EVENTS:
        console.print(Text(f"and {count(len(events) - EVENTS, 'earlier event')} in events.csv", "yellow"))


def layers(reading: Reading, quantity: str, width: int) -> Table:
    """Medians over the records, by layer; where ``width`` has no room for all, errors and the last order's bar."""
    numbers = layer_table(reading, quantity)
    groups = by_group(numbers)
    sources = orders(numbers.reset_index())
    columns = [(source, what) for source in sources for what in ("predicted", "error", "bar")]
    longest = max((len(label(group)) for group in groups), default=0)
    all_fit = 4 + longest + COLUMN * (len(columns) + 2) <= width
    if not all_fit:
        columns = [(source, "error") for source in sources] + [(source, "bar") for source in sources[-1:]]
    columns += [(source, "covered") for source in sources[-1:]]

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("layer", no_wrap=True)
    headers = ["measured"]
    for source, what in columns:
        name = source_name(source)
        whose = "its" if all_fit else f"{name}'s"
        headers.append({"predicted": name, "covered": "% in\n2 bars"}.get(what, f"{whose}\n{what}"))
    for header in headers:
        table.add_column(header.replace("gradient flow", "gradient\nflow"), justify="right", min_width=COLUMN - 1)
    for group, found in list(groups.items())[:LAYERS]:
        cells = [next(iter(found.values()))["measured"]]
        for source, what in columns:
            cells.append(found.get(source, {}).get(what, math.nan) * (100 if what == "covered" else 1))
        table.add_row(Text(label(group, 22)), *(amount(cell).text for cell in cells))
    if len(groups) > LAYERS:
        table.caption = f"and {count(len(groups) - LAYERS, 'more layer')}; the report and an export have all"
    return table
