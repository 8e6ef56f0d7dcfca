"""A run as one HTML file that needs nothing beside it."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eom.analysis.conclusion import conclusion
from eom.analysis.page import fill, save
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.self_test import LEGEND, self_test, taken
from eom.analysis.tables import tables
from eom.analysis.words import label
from eom.errors import NotARunError

EVENTS = 200  # on the page; events.csv has all


def report(run: AnyRun | Sequence[AnyRun], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run, or of several on one page, and return where it is.

    Args:
        run: a run or its folder, also one that is still being written; or a sequence of them.
        out: the file to write, or a folder for it; by default ``report.html`` in the (first) run's folder.

    Raises:
        NotARunError, NewerRunError, DamagedRunError: there is no run to report on.
        FolderNotWritableError: the report cannot be written there.
    """
    runs = run if isinstance(run, Sequence) and not isinstance(run, str) else [run]
    readings = [Reading.of(one) for one in runs]
    if not readings:
        raise NotARunError("no run was given, expected at least one")
    path = readings[0].path if out is None else Path(out)
    return save(render(readings), path, "report.html")


def render(readings: Sequence[Reading]) -> str:
    """The page as text, a section for each run."""
    runs = [section(reading, f"run{i}-") for i, reading in enumerate(readings)]
    return fill("page.html.j2", name=", ".join(run["name"] for run in runs), runs=runs, legend=LEGEND)


def section(reading: Reading, prefix: str) -> dict[str, Any]:
    """What the page says of one run; the ids in its figures begin with ``prefix``."""
    from eom.analysis.figures import figures  # only a report draws

    events = reading.events()
    return {
        "name": label(reading.path.resolve().name),
        "sentences": conclusion(reading),
        "settings": described(reading),
        "taken": taken(reading.manifest),
        "self_test": self_test(reading.manifest.get("self_test") or []),
        "events": [{k: plain(v) for k, v in e.items()} for e in events.head(EVENTS).to_dict("records")],
        "events_left": max(0, len(events) - EVENTS),
        "figures": list(figures(reading, prefix)),
        "tables": list(tables(reading)),
        "model": str(reading.manifest.get("model", "")),
    }


def described(reading: Reading) -> list[tuple[str, str]]:
    """What the manifest says of the run, as lines of a name and a text."""
    manifest = reading.manifest
    shown = {"settings", "versions", "machine", "data", "sha256"}
    lines = {k: manifest.get(k) for k in ("created", "finished", "command", "device", "dtype", "seed")}
    lines |= {k: manifest.get(k) for k in ("parameters", "steps", "records", "group_kind", "eom")}
    lines |= {f"{k}: {name}": v for k in sorted(shown) for name, v in (manifest.get(k) or {}).items()}
    lines["resumed"] = manifest.get("resumed")
    if isinstance(lines["command"], list):
        lines["command"] = shlex.join(lines["command"])
    return [(label(name.replace("_", " ")), plain(value)) for name, value in lines.items() if value is not None]


def plain(value: Any) -> str:
    """A value of the manifest as a reader wants to see it."""
    match value:
        case dict():
            return ", ".join(f"{label(str(name))} {plain(item)}" for name, item in value.items())
        case list():
            return ", ".join(map(plain, value))
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case "":
            return ""
        case _:
            return label(str(value))
