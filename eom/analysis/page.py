"""A page of HTML that needs nothing beside it: a template filled, and written."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eom.errors import FolderNotWritableError
from eom.records.manifest import replace


def fill(template: str, **what: Any) -> str:
    """The page as text."""
    loader = PackageLoader("eom", "analysis")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["whole"] = whole_numbers
    return environment.get_template(template).render(**what)


def whole_numbers(text: str) -> Markup:
    """``text`` escaped, and no line broken inside a number like 3e-4."""
    return Markup(re.sub(r"\d\S*e-\d+", r'<span class="whole">\g<0></span>', str(escape(text))))


def save(page: str, path: Path, name: str) -> Path:
    """Write a page to ``path``, or under its ``name`` into that folder, and return where it is.

    Raises:
        FolderNotWritableError: it cannot be written there, or would take the place of something else.
    """
    path = path / name if path.is_dir() else path
    if path.exists() and path.suffix not in (".html", ".htm"):
        raise FolderNotWritableError(
            f"{path} is there already and no page: choose a folder, or a name that ends in .html"
        )
    try:
        replace(path, page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise FolderNotWritableError(
            f"no page can be written to {path} ({error}): choose another place with out="
        ) from error
    return path
