"""A run as one HTML file that needs nothing beside it."""

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from eom.analysis.conclusion import conclusion
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.tables import tables
from eom.analysis.words import label, number
from eom.errors import FolderNotWritableError
from eom.records.manifest import replace

EVENTS = 200  # on the page; events.csv has all


def report(run: AnyRun, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run, and return where it is.

    Args:
        run: a run or its folder, also one that is still being written.
        out: the file to write, or a folder for it; by default ``report.html`` in the run's folder.

    Raises:
        NotARunError, NewerRunError, DamagedRunError: there is no run to report on.
        FolderNotWritableError: the report cannot be written there.
    """
    reading = Reading.of(run)
    path = reading.path if out is None else Path(out)
    path = path / "report.html" if path.is_dir() else path
    page = render(reading).encode("utf-8", "backslashreplace")
    try:
        replace(path, page)
    except OSError as error:
        raise FolderNotWritableError(
            f"no report can be written to {path} ({error}): choose another place with out="
        ) from error
    return path


def render(reading: Reading) -> str:
    """The page as text."""
    from eom.analysis.figures import figures  # only a report draws

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["whole"] = whole_numbers
    template = environment.from_string(files("eom.analysis").joinpath("page.html.j2").read_text("utf-8"))
    events = reading.events()
    return template.render(
        name=label(reading.path.resolve().name),
        manifest=reading.manifest,
        sentences=conclusion(reading),
        settings=described(reading),
        self_test=[plain(check) for check in reading.manifest.get("self_test") or []],
        events=[{k: plain(v) for k, v in e.items()} for e in events.head(EVENTS).to_dict("records")],
        events_left=max(0, len(events) - EVENTS),
        figures=list(figures(reading)),
        tables=list(tables(reading)),
        model=str(reading.manifest.get("model", "")),
    )


def whole_numbers(text: str) -> Markup:
    """``text`` escaped, and no line broken inside a number like 3e-4."""
    return Markup(re.sub(r"\d\S*e-\d+", r'<span class="whole">\g<0></span>', str(escape(text))))


def described(reading: Reading) -> list[tuple[str, str]]:
    """What the manifest says of the run, as lines of a name and a text."""
    manifest = reading.manifest
    shown = {"settings", "versions", "machine", "data", "sha256"}
    lines = {k: manifest.get(k) for k in ("created", "finished", "command", "device", "dtype", "seed")}
    lines |= {k: manifest.get(k) for k in ("parameters", "steps", "records", "group_kind", "eom")}
    lines |= {f"{k}: {name}": v for k in sorted(shown) for name, v in (manifest.get(k) or {}).items()}
    lines["resumed"] = manifest.get("resumed")
    return [(label(k.replace("_", " ")), plain(v)) for k, v in lines.items() if v is not None]


def plain(value: Any) -> Any:
    """A value of the manifest as a reader wants to see it."""
    match value:
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list():
            return " ".join(str(plain(item)) for item in value)
        case bool():
            return "yes" if value else "no"
        case float():
            return number(value)
        case None:
            return "not finite"
        case _:
            return label(str(value))
