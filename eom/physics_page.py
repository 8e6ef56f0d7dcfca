"""The tables and the page of `eom demo --physics`: what each number and figure is, and what is good."""

from pathlib import Path

from rich.table import Column, Table

from eom import picturing
from eom.analysis.figures import Figure
from eom.analysis.page import fill, save
from eom.analysis.tables import Cell, amount
from eom.analysis.tables import Table as PageTable
from eom.analysis.words import count, number
from eom.physics_findings import TITLES, Learned

SHOWN = 3  # motions in the portrait, where more would hide each other
SHORT = {  # in the terminal, where the note under the table says what each is
    "derivative": "rates", "energy": "energy", "state": "state", "drift": "own drift", "invariants": "mass drift",
    "horizon": "half off",
}  # fmt: skip


def note(part: Learned) -> str:
    """What the columns are, and what is good."""
    drifts = {
        "drift": "Own drift: the largest change of the model's own energy, over the spread of that energy on the test "
        "states; none for models without one. ",
        "invariants": "Mass drift: the largest change of mass. ",
    }
    told = "".join(text for column, text in drifts.items() if column in part.columns())
    return (
        f"On {count(len(part.test), 'unseen motion')} over {part.long:g} units of time. Good: small errors and drifts, "
        "late times. Errors are roots of mean squares: of rates u' on true states, of the true energy and the state "
        f"along the prediction. {told}Half off: the mean time when the state is off by half of its size, {part.long:g} "
        "where it never was."
    )


def terminal_table(part: Learned) -> Table:
    columns = part.columns()
    titles = ["", *(SHORT[c] for c in columns), "seconds"]
    heads = [Column(title, no_wrap=True) for title in titles]
    shown = Table(*heads, title=part.title, caption=note(part), box=None, pad_edge=False)
    shown.title_justify = shown.caption_justify = "left"
    for name in part.scores:
        shown.add_row(name, *(cell(part, name, c).text for c in columns), number(part.seconds[name]))
    return shown


def page_table(part: Learned) -> PageTable:
    columns = part.columns()
    headers = [("model", ""), *((TITLES[c], "") for c in columns), ("training", "s")]
    rows = [
        [Cell(name, name), *(cell(part, name, c) for c in columns), amount(part.seconds[name])] for name in part.scores
    ]
    return PageTable(part.title, note(part), headers, rows)


def cell(part: Learned, name: str, what: str) -> Cell:
    return amount(part.score(name, what))


def write(pendulum: Learned, waves: Learned, width: float, said: list[str], out: Path) -> Path:
    """The page; ``width`` is the length of the circle on which the waves travel."""
    few = pendulum.test.select(slice(SHOWN))
    portrait = picturing.phase_portrait(
        pendulum.arrived, pendulum.system, few, observed=pendulum.data,
        predicted={name: motion.select(slice(SHOWN)) for name, motion in pendulum.predicted.items()},
    )  # fmt: skip
    energy = picturing.energy_over_time(
        pendulum.arrived, pendulum.system, pendulum.test, predicted=pendulum.predicted, clock="time (dimensionless)"
    )
    course = picturing.space_time(
        waves.arrived, waves.test, width=width, predicted=waves.predicted,
        labels=("place x (dimensionless)", "time (dimensionless)", "height u (dimensionless)"),
    )  # fmt: skip
    figures = [
        Figure(
            "Phase portraits", portrait.svg,
            f"Top left: the noisy states that all models learned from. Then {len(few)} unseen motions over "
            f"{float(few.times[0, -1]):g} units of time. Good: a predicted path that stays on the true one, and "
            "learned level lines on the true ones where there were data. A learned energy is shifted by a constant, as "
            "it has no zero of its own. p is dimensionless. A path shows no timing: a state may be far along a right "
            "path. A prediction may leave the view.",
        ),
        Figure(
            "Energy over time", energy.svg,
            f"Medians over {len(pendulum.test)} unseen motions, bands from the first to the third quartile; energies "
            "are dimensionless. Good: a true energy that does not change, and small errors. That a model keeps its own "
            "energy says nothing of how right that energy is: compare the last panel with the one before.",
        ),
        Figure(
            "Waves in space and time", course.svg,
            "Above: one true solution and what each model predicts from its first row. Below: predicted less true, "
            "in the same colours. Good: a white difference. "
            f"The models have seen other waves, over {waves.span:g} units of time.",
        ),
    ]  # fmt: skip
    page = fill(
        "comparison.html.j2",
        name="Physical systems",
        lead="Laws of motion learned from data by models that keep an energy and by models that do not; their "
        "predictions of unseen motions, and scores that do not stand for one another.",
        sentences=said,
        figures=figures,
        tables=[page_table(part) for part in (pendulum, waves)],
        others={},
    )
    return save(page, out, "physics.html")
