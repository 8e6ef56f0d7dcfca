"""What the studies of errors over steps share: claims of orders, and a figure."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from eom.analysis.curves import ladders
from eom.analysis.drawing import standalone
from eom.stochastic import Ladder


def claims(found: Mapping[str, Ladder]) -> dict[str, float]:
    """The order of each, 0 where none is stated."""
    return {f"{name}: order": one.order or 0.0 for name, one in found.items()}


def draw(rows: pd.DataFrame, figure: Path) -> None:
    figure.write_text(standalone(ladders("errors", rows)), encoding="utf-8")
