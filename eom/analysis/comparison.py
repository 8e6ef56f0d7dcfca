"""The page of a comparison: what it says, shows and tabulates."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from eom.analysis import curves
from eom.analysis.compare import Comparison
from eom.analysis.errors import edge
from eom.analysis.families import apart
from eom.analysis.figures import Figure
from eom.analysis.page import fill, save
from eom.analysis.reading import Reading
from eom.analysis.scaling import Rate, run_means
from eom.analysis.series import PANELS, thin
from eom.analysis.tables import Cell, Table, amount
from eom.analysis.verdict import at_rate, verdict
from eom.analysis.words import count, label, percent, source_name

BY_STEP = ["loss", "lr × sharpness"]  # panels that are shown over steps too
LEAD = (
    "What the learning rate changes: how far gradient flow (the limit of small rates) and the equation of motion "
    "(order k keeps the first k corrections for a finite one) describe each run."
)
WHERE = "common times, where lr × sharpness is below 1 and the error larger than the measurement's bar"


def write(comparison: Comparison, path: Path, wanted: float) -> Path:
    """Write the page to ``path``, or into that folder."""
    title = f"{count(len(comparison.readings), 'run')} compared"
    page = fill(
        "comparison.html.j2",
        name=title,
        lead=LEAD,
        sentences=verdict(comparison, wanted),
        figures=list(figures(comparison)),
        tables=[runs(comparison), rates(comparison, wanted), layers(comparison), starts(comparison, wanted)],
        others=comparison.others,
    )
    return save(page, path, "comparison.html")


def figures(comparison: Comparison) -> Iterator[Figure]:
    """Those for which the runs have numbers."""
    points = scaled(comparison)
    if len(points):
        yield Figure(
            "Error over learning rate",
            curves.scaling("scaling", points),
            f"How far each order is from d|w|²/dt as measured, or looked ahead: means of the logarithm over {WHERE}. A "
            "marker for each run, a line for the fitted power of the learning rate. Good: order k falls along a line "
            "of slope k + 1; the table has the slopes with their intervals.",
        )
    courses = over_time(comparison)
    if len(courses):
        yield Figure(
            "The runs on common time",
            curves.courses("courses", courses, looks(comparison), "time", "time (sum of learning rates)"),
            "Loss and norm coincide where gradient flow describes the run, and part where the learning rate matters "
            f"(the loss of mini-batches scatters besides). {cut_off(comparison)}"
            "(lr / 4) |g|² is what the equation of motion of order 1 adds to the loss, the implicit regularisation of "
            "a finite step. Where lr × sharpness passes 1 the log map need not converge, at 2 gradient descent is at "
            f"the edge of stability. {named_of(len(comparison.names))}",
        )
    by_step = courses.loc[courses.panel.isin(BY_STEP)]
    if len(by_step):
        yield Figure(
            "The runs on common steps",
            curves.courses("steps", by_step, looks(comparison), "step", "step"),
            "What the same number of steps achieves at each learning rate.",
        )


def looks(comparison: Comparison) -> list[curves.Look]:
    """How each run is drawn: runs of one rate are told apart by their strokes."""
    table, seen = comparison.table(), dict[float, int]()
    found = []
    for k, (name, lr) in enumerate(zip(table.run, table.lr, strict=True)):
        found.append(curves.Look(name, seen.setdefault(lr, 0), k in comparison.exploded))
        seen[lr] += 1
    return found


def cut_off(comparison: Comparison) -> str:
    """What the scale leaves out."""
    return "Runs that exploded leave the scale, which is that of the others. " if comparison.exploded else ""


def named_of(runs: int) -> str:
    """Which lines the legend leaves out."""
    if runs <= curves.NAMED:
        return ""
    return f"{runs} lines, from blue to orange as the learning rate rises, of which the legend names {curves.NAMED}."


def over_time(comparison: Comparison) -> pd.DataFrame:
    """panel, unit, run, step, time, value of what is drawn over common time."""
    parts = []
    for panel, unit, line_of in (
        ("loss", "loss", lambda reading: reading.measured("loss")),
        ("|w|² of all parameters", "weight²", lambda reading: reading.measured("norm_squared")),
        ("lr × sharpness", "largest eigenvalue × lr", lambda reading: edge(reading).path),
        ("(lr / 4) |g|²", "loss", regularisation),
    ):
        for run, line in enumerate(map(line_of, comparison.readings)):
            line = line.loc[np.isfinite(line.value), ["step", "time", "value"]]
            parts.append(thin(line.assign(panel=panel, unit=unit, run=run), ["panel"]))
    return pd.concat(parts, ignore_index=True)


def regularisation(reading: Reading) -> pd.DataFrame:
    """(lr / 4) |g|^2 along a run, what order 1 adds to the loss."""
    both = reading.measured("gradient_norm").merge(reading.measured("lr"), on="step", suffixes=("", "_lr"))
    return both.assign(value=both.value_lr / 4 * both.value**2)


def scaled(comparison: Comparison) -> pd.DataFrame:
    """panel, source, lr, error, fitted, see ``run_means``."""
    errors, slopes = comparison.errors, comparison.scaling()
    parts = []
    for group, source in list(slopes.index)[: PANELS * len(comparison.orders)]:
        own = errors.loc[(errors.group == group) & (errors.source == source)]
        points = run_means(own, float(slopes.slope[group, source]))
        parts.append(points.assign(panel=group, source=source))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def runs(comparison: Comparison) -> Table:
    """One row for each run."""
    names = [source_name(order) for order in comparison.orders]
    headers = [("run", ""), ("end", ""), ("learning rate", ""), ("steps", "")]
    headers += [("time of last record", ""), ("loss there", "")]
    headers += [(f"error of {name}", "% of the rate") for name in names]
    headers += [("largest lr × sharpness", ""), ("first step at 1", ""), ("first step at 2", "")]
    rows = []
    for row in comparison.table().to_dict("records"):
        texts = [Cell(label(str(row[key]), 60), str(row[key])) for key in ("run", "end")]
        numbers = [amount(number_in(row[key])) for key in ("lr", "steps", "time", "loss")]
        errors = [amount(100 * number_in(row[order])) for order in comparison.orders]
        rows.append(texts + numbers + errors + [amount(number_in(row[key])) for key in ("sharpest", "radius", "edge")])
    note = (
        "Errors of the predicted d|w|²/dt over its size, both as root mean squares over a run's records, in the layer "
        "(weights of two dimensions and more) where it is worst. Good: small, and smaller from order to order. A run "
        "whose lr × sharpness stays below 1 has no first step at 1. –: an error that nowhere "
        "exceeds the measurement's bar, so that it is not known."
    )
    return Table("Runs", note, headers, rows)


def number_in(value: object) -> float:
    return float("nan") if value is None else float(value)  # type: ignore[arg-type] - of a table's cell


def rates(comparison: Comparison, wanted: float) -> Table:
    """The largest learning rate for each order, and an error ten times larger and smaller than wanted."""
    headers = [
        ("order", ""),
        ("wanted error", ""),
        ("in these runs", "learning rate"),
        ("by its bars", "learning rate"),
    ]
    headers += [("by one step", "learning rate")]
    rows = []
    for share in (10 * wanted, wanted, wanted / 10):
        for source, found in comparison.largest(share).items():
            cells = [Cell(source_name(source), source), Cell(percent(share), f"{share:.6g}")]
            rows.append(cells + [Cell(at_rate(rate), rate.value) for rate in found])
    note = (
        "The largest learning rate at which the error of d|w|²/dt is at most the wanted share of it, in the worst "
        "layer: as seen; as the predictions' own bars say; and, of all parameters together, where one step ends that "
        "share of its length from where the order's flow does (for gradient flow lr = 2 × share × |g| / |H g|, which "
        "is sqrt(2 eps / |H g|) with eps = share × lr |g|), root mean square over the records. Between runs by "
        "interpolation. > and <: every run whose error is known keeps it, or none does. Good: the bars near what is "
        "seen; one step is another measure, and may be far."
    )
    return Table("The largest learning rate for a wanted error", note, headers, rows)


def layers(comparison: Comparison) -> Table:
    """Fitted slopes of every layer."""
    slopes = comparison.scaling()
    headers = [("layer", "")]
    for name in map(source_name, comparison.orders):
        headers += [(f"slope of {name}", ""), ("95 % from", ""), ("to", ""), ("runs", "")]
    rows = []
    for group in slopes.index.unique("group") if len(slopes) else []:
        found = [
            slopes.loc[(group, source)] if (group, source) in slopes.index else None for source in comparison.orders
        ]
        numbers = [
            amount(np.nan if s is None else float(s[key])) for s in found for key in ("slope", "low", "high", "runs")
        ]
        rows.append([Cell(label(group, 80), label(group)), *numbers])
    note = (
        f"Power of the learning rate by which the error grows, at {WHERE}; intervals by a jackknife over the runs, "
        "from three runs on. Expected: 1 for gradient flow, k + 1 for order k."
    )
    return Table("Slopes by layer", note, headers, rows)


def starts(comparison: Comparison, wanted: float) -> Table:
    """One row for each family of runs that begin alike, if there are several."""
    names = [source_name(order) for order in comparison.orders]
    headers = [("family of", ""), ("begins with", ""), ("runs", "")]
    headers += [(f"largest rate of {name}", f"error {percent(wanted)}") for name in names]
    headers += [("first rate at lr × sharpness 2", "")]
    rows = []
    for family in (comparison, *comparison.repeats) if comparison.repeats else ():
        found, table = family.largest(wanted), family.table()
        why = apart(family.readings[0], comparison.readings[0]) or "(the runs above)"
        rates = [found[order].seen if order in found else Rate(np.nan) for order in comparison.orders]
        rows.append(
            [Cell(label(family.names[0], 60), family.names[0]), Cell(why, why), amount(len(table))]
            + [Cell(at_rate(rate), rate.value) for rate in rates]
            + [amount(float(table.loc[table.edge.notna(), "lr"].min()))]
        )
    note = (
        "Runs that begin differently are not compared with each other, as it is not the learning rate alone that parts "
        "them; each family is compared in itself, to the same wanted error. Good: rates that are near each other."
    )
    return Table("Runs that begin differently", note, headers, rows)
