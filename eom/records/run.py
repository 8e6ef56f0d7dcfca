"""Reads a run from its folder, also while it is being written."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eom.errors import DamagedRunError, SettingError, TornTableWarning, warn_user
from eom.records.manifest import ARRAYS, read_manifest
from eom.records.table import EVENTS, HEADER, TABLE, open_whole

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TYPES: Any = {
    TABLE: {
        "step": "int64",
        "time": "float64",
        "group": "category",
        "quantity": "category",
        "source": "category",
        "value": "float64",
        "bar": "float64",
    },
    EVENTS: {"step": "int64", "time": "float64", "kind": "str", "message": "str"},
}


@dataclass(frozen=True)
class Run:
    """A run on disk; its tables are read anew at each call."""

    path: Path
    manifest: dict[str, Any] = field(repr=False)

    def table(self) -> "pd.DataFrame":
        """Every number recorded: step, time, group, quantity, source, value, bar; floats bit for bit."""
        return read_table(self.path / TABLE)

    def events(self) -> "pd.DataFrame":
        """What happened on the way: step, time, kind, message."""
        return read_table(self.path / EVENTS)

    def arrays(self) -> "dict[str, np.ndarray]":
        """The arrays kept with the run; none is an empty dict."""
        import numpy as np

        path = self.path / ARRAYS
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open the run in the folder ``path``.

    Raises:
        NotARunError: there is no run there.
        NewerRunError: it was written by a later version.
        DamagedRunError: its manifest cannot be read.
        SettingError: ``path`` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise SettingError(f"run is a {type(path).__name__}, expected the folder of a run")
    folder = Path(path)
    return Run(folder, read_manifest(folder))


def read_table(path: Path) -> "pd.DataFrame":
    """Read the whole rows of a table; a torn last one is left out with a ``TornTableWarning``.

    Raises:
        DamagedRunError: it is not a table of this kind.
    """
    import pandas as pd

    header, types = HEADER[path.name], TYPES[path.name]
    # pandas before 3 rounds the last bit of a float unless told not to; later it never does
    precision: Any = {"float_precision": "round_trip"} if int(pd.__version__.split(".")[0]) < 3 else {}
    missing = {name: ["nan", ""] for name, kind in types.items() if kind == "float64"}
    file, torn = open_whole(path)
    if torn:
        warn_user(
            f"the last row of {path} is torn after {torn} bytes and is left out: the run was killed in the "
            "middle of a write, or is being written now",
            TornTableWarning,
        )
    with file:
        try:
            if (found := file.readline() or header) != header:
                raise ValueError(f"its first line is {found[:80]!r}, expected {header!r}")
            return pd.read_csv(
                file, names=list(types), dtype=types, keep_default_na=False, na_values=missing, **precision
            )  # fmt: skip
        except ValueError as error:
            raise DamagedRunError(f"{path} cannot be read ({error}): something else has changed it") from None
