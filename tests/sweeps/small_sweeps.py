"""A sweep of two short runs."""

from pathlib import Path
from typing import Any

import setups

import eom
from eom.records import Run

LRS = [0.1, 0.4]


def swept(out: Path, setup=setups.plain, lrs=LRS, steps: int | None = 12, **others: Any) -> list[Run]:
    settings: dict[str, Any] = {"jobs": 1, "threads": 1, "every": 3} | others
    return eom.sweep(setup, lrs, steps, out=out, **settings)
