"""The table of a run in other formats."""

import io
import json
import os
from pathlib import Path

import pandas as pd

from eom.analysis.reading import AnyRun, Reading
from eom.errors import FolderNotWritableError, MissingExtraError, SettingError
from eom.records.manifest import replace, strict
from eom.records.table import TABLE

FORMATS = ("parquet", "csv", "json")


def export(run: AnyRun, to: str, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the table of a run as ``to``, one of parquet, csv or json, and return where it is.

    JSON holds the manifest too: {"manifest": {...}, "rows": [{...}, ...]}, with null for NaN and infinities.

    Args:
        out: the file to write, or a folder for it; by default ``export.FORMAT`` in the run's folder.

    Raises:
        SettingError: another format, or a place where the run itself would be overwritten.
        MissingExtraError: Parquet without pyarrow.
        FolderNotWritableError: the file cannot be written there.
        NotARunError, NewerRunError, DamagedRunError: there is no run to export.
    """
    if to not in FORMATS:
        raise SettingError(f"format is {to!r}, expected one of {', '.join(FORMATS)}")
    reading = Reading.of(run)
    path = reading.path if out is None else Path(out)
    path = path / f"export.{to}" if path.is_dir() else path
    if path.resolve() == (reading.path / TABLE).resolve():
        raise SettingError(f"{path} is the run's own table, which an export must not replace: choose another name")
    content = {"parquet": parquet, "csv": csv, "json": as_json}[to](reading)
    try:
        replace(path, content)
    except OSError as error:
        raise FolderNotWritableError(
            f"nothing can be written to {path} ({error}): choose another place with out="
        ) from error
    return path


def parquet(reading: Reading) -> bytes:
    try:
        import pyarrow  # noqa: F401 - pandas needs it, and would not say how to get it
    except ImportError:
        raise MissingExtraError(
            "Parquet needs pyarrow, which is not installed: pip install 'eom[parquet]', or export csv or json"
        ) from None
    buffer = io.BytesIO()
    reading.table().to_parquet(buffer, index=False)
    return buffer.getvalue()


def csv(reading: Reading) -> bytes:
    return reading.table().to_csv(index=False, na_rep="nan", lineterminator="\n").encode()


def as_json(reading: Reading) -> bytes:
    table: pd.DataFrame = reading.table()
    content = {"manifest": reading.manifest, "rows": table.to_dict("records")}
    return json.dumps(strict(content), allow_nan=False).encode()
