"""`eom demo --stochastic`: what random depth, samplers and SGD are as stochastic equations, and which readings fail."""

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from eom.analysis.curves import ladder_rows, ladders
from eom.analysis.figures import Figure
from eom.analysis.page import fill, save
from eom.analysis.tables import Cell, amount
from eom.analysis.tables import Table as PageTable
from eom.analysis.words import number
from eom.demo import cross_entropy, digits, require_empty
from eom.dynamics.order import Ladder
from eom.stochastic import examples
from eom.sweeps.svag import svag

RATE, BATCH, SAMPLES = 0.1, 20, 600


def setup():
    """A perceptron on 600 digits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    return net, cross_entropy, digits(SAMPLES)


def run_stochastic_demo(out: Path, *, small: bool = False) -> Path:
    """Measure orders without sampling, train by SVAG, print what was found, and return the path of the page.

    Raises:
        FolderUsedError: ``out`` holds something already.
    """
    require_empty(out)
    console, levels = Console(), 5
    panels = {
        "networks of random depth": ("1 / depth", examples.random_depth([2**k for k in range(4, 4 + levels)])),
        "samplers, <cos 2x> on a double well": (
            "step",
            examples.langevin([0.1 / 2**k for k in range(levels)], [0.4 / 2**k for k in range(4)]),
        ),
        "SGD on a regression": ("learning rate", examples.sgd([0.2 / 2**k for k in range(levels + 1)])),
    }
    for title, (_, found) in panels.items():
        console.print(table(title, found))
    seeds = 3 if small else 6
    steps = 40 if small else 160
    console.print(f"SVAG on {SAMPLES} handwritten digits, batches of {BATCH}, {seeds} seeds ...")
    view = svag(
        setup, RATE, steps, batch_size=BATCH, seeds=range(seeds), out=out, every=steps // 5, jobs=1,
        console=Console(quiet=True),
    )  # fmt: skip
    said = [*sentences(panels), *view.sentences()]
    for sentence in said:
        console.print(Text("• " + sentence))
    page = write(panels, said, out)
    console.print(f"SVAG: {view.report()}", soft_wrap=True)
    console.print(f"orders: {page}", soft_wrap=True)
    return page


def table(title: str, found: Mapping[str, Ladder]) -> Table:
    """Orders in the terminal."""
    shown = Table("", "order", "error at the finest", title=title, title_justify="left", box=None, pad_edge=False)
    for name, one in found.items():
        shown.add_row(name, said_of(one), number(one.error[-1]))
    return shown


def said_of(one: Ladder) -> str:
    return f"none: {one.reason}" if one.order is None else f"{one.order:.2f}"


def sentences(panels: Mapping[str, tuple[str, Mapping[str, Ladder]]]) -> list[str]:
    """What the orders say."""
    depth, samplers, sgd = (found for _, found in panels.values())
    one, other = samplers["Euler-Maruyama (ULA)"], samplers["Leimkuhler-Matthews"]
    flow, first = sgd["gradient flow"], sgd["equation of order 1"]
    less, left = (number(abs(x.error[-1] / y.error[-1])) for x, y in ((one, other), (first, flow)))
    quoted = number(abs(depth["literal, noise not scaled"].error[-1]))
    return [
        "A shake-shake network follows the SDE dX = b dt + d dW / √12, in Ito's reading, if its branches are scaled as "
        f"h b ± √h d / 2 (order {said_of(depth['diffusive scaling, Ito'])} in the depth). With branches h f it follows "
        f"an ODE (order {said_of(depth['literal, ODE'])}). The often quoted SDE with noise (f1 - f2) / √12 "
        f"describes neither: the expectation of e^cos(x - 1/2) after the network stays {quoted} off however deep it "
        "is.",
        f"Of samplers that compute one gradient for a step, Leimkuhler-Matthews has order {said_of(other)} where "
        f"Euler-Maruyama (ULA, SGLD) has {said_of(one)}: {less} times less bias at step {number(one.h[-1])}.",
        f"SGD follows gradient flow to order {said_of(flow)} and its stochastic equation of order 2 to order "
        f"{said_of(sgd['equation of order 2'])}. Noise added to gradient flow keeps its order, but leaves only "
        f"{left} of its error (at learning rate {number(first.h[-1])}).",
    ]


def write(panels: Mapping[str, tuple[str, Mapping[str, Ladder]]], said: list[str], out: Path) -> Path:
    """The page of the orders."""
    caption = (
        "Exact expectations, no sampling. Good: a straight line: its slope is the order. A flat line: a wrong reading."
    )
    cells = []
    for panel, (_, found) in panels.items():
        for name, one in found.items():
            texts = [
                Cell(panel, panel),
                Cell(name, name),
                Cell(one.reason or f"the finest {one.window} steps", one.reason),
            ]
            width = one.interval
            cells.append([*texts, *map(amount, (one.order or float("nan"), width or float("nan"), one.error[-1]))])
    headers = [
        ("problem", ""),
        ("scheme or equation", ""),
        ("read from, or why not", ""),
        ("order", ""),
        ("half-width", ""),
        ("error at the finest", ""),
    ]
    note = "p of |error| = c h^p (1 + a h) over the steps where that describes it; none where it does not."
    page = fill(
        "comparison.html.j2",
        name="Stochastic views",
        lead="Which stochastic equations networks of random depth, samplers and SGD follow, and which readings fail.",
        sentences=said,
        figures=[Figure("Errors over steps", ladders("orders", ladder_rows(panels)), caption)],
        tables=[PageTable("Orders", note, headers, cells)],
        others={},
    )
    return save(page, out, "stochastic.html")
