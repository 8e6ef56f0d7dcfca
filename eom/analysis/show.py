"""A run in the terminal."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eom.analysis.conclusion import conclusion
from eom.analysis.errors import DISPLACEMENT, RATE, layer_table, orders
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.tables import amount, by_group
from eom.analysis.words import count, label, quantity_name, source_name

LAYERS, EVENTS = 30, 5  # rows shown


def show(run: AnyRun, console: Console | None = None) -> None:
    """Print the table of layers, the conclusion and the last events of a run; readable at 80 columns.

    Raises:
        NotARunError, NewerRunError, DamagedRunError: there is no run to show.
    """
    reading = Reading.of(run)
    console = console or Console()
    for quantity in (RATE, DISPLACEMENT):
        table = layers(reading, quantity)
        if table.row_count:
            unit = reading.unit(quantity)
            named = f"{quantity_name(quantity)} [{unit}]" if unit else quantity_name(quantity)
            console.print(Text(f"{named}, and by how much each order misses it (medians)", "bold"))
            console.print(table)
    for sentence in conclusion(reading):
        console.print(Text("• " + sentence))
    events = reading.events()
    for event in events.tail(EVENTS).to_dict("records"):
        console.print(Text(f"step {event['step']}: {label(event['kind'])}: {label(event['message'])}", "yellow"))
    if len(events) > EVENTS:
        console.print(Text(f"and {count(len(events) - EVENTS, 'earlier event')} in events.csv", "yellow"))


def layers(reading: Reading, quantity: str) -> Table:
    """Medians over the records, by layer: the measured size, errors, the last order's bar and its coverage."""
    numbers = layer_table(reading, quantity)
    sources = orders(numbers.reset_index())
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("layer", no_wrap=True)
    headers = ["measured", *(source_name(source) for source in sources)]
    headers += [f"{source_name(sources[-1])}'s bar", "% within 2 bars"] if sources else []
    for header in headers:
        table.add_column(header, justify="right", min_width=7)
    groups = by_group(numbers)
    for group, found in list(groups.items())[:LAYERS]:
        nothing = dict.fromkeys(("error", "bar", "covered"), math.nan)
        by_source = [found.get(source, nothing) for source in sources]
        cells = [next(iter(found.values()))["measured"], *(row["error"] for row in by_source)]
        if sources:
            cells += [by_source[-1]["bar"], 100 * by_source[-1]["covered"]]
        shown = [amount(cell).text for cell in cells]
        table.add_row(Text(label(group, 22)), *shown)
    if len(groups) > LAYERS:
        table.caption = f"and {count(len(groups) - LAYERS, 'more layer')}; the report and an export have all"
    return table
