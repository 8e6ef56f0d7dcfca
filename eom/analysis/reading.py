"""A run read once, for analyses that ask it many things."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from eom.records import Run, open_run


@dataclass(frozen=True)
class Reading:
    """The content of a run at one moment; it answers like a ``Run``, without reading again."""

    path: Path
    manifest: dict[str, Any] = field(repr=False)
    rows: pd.DataFrame = field(repr=False)
    log: pd.DataFrame = field(repr=False)
    errors: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)  # by quantity, once worked out

    @classmethod
    def of(cls, run: "Run | Reading | str | os.PathLike[str]") -> "Reading":
        """Read a run, given itself or its folder; a reading is returned as it is."""
        if isinstance(run, Reading):
            return run
        run = run if isinstance(run, Run) else open_run(run)
        return cls(run.path, run.manifest, run.table(), run.events())

    def table(self) -> pd.DataFrame:
        return self.rows

    def events(self) -> pd.DataFrame:
        return self.log

    def measured(self, quantity: str, group: str = "all") -> pd.DataFrame:
        """step, time, value of a measured quantity, in order of steps."""
        rows = self.rows
        chosen = (rows.quantity == quantity) & (rows.source == "measured") & (rows.group == group)
        return rows.loc[chosen, ["step", "time", "value"]].drop_duplicates("step", keep="last").sort_values("step")

    @property
    def settings(self) -> dict[str, Any]:
        return self.manifest.get("settings") or {}

    def unit(self, quantity: str) -> str:
        """The unit of a quantity, empty where the run does not say."""
        return (self.manifest.get("units") or {}).get(quantity, "")

    @property
    def groups(self) -> list[str]:
        """Every group that has rows, in the model's order where the run says it."""
        recorded = self.rows.group.unique().tolist()
        known = [group for group in self.manifest.get("groups") or [] if group in set(recorded)]
        return known + [group for group in recorded if group not in set(known)]

    @property
    def layers(self) -> list[str]:
        """Groups other than the whole; only the weight tensors, where the run names them."""
        weights = set(self.manifest.get("weights") or self.groups) - {"all"}
        return [group for group in self.groups if group in weights]


AnyRun = Run | Reading | str | os.PathLike[str]
