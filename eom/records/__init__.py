"""A run on disk: manifest, append-only tables, arrays. Imports no torch."""

from eom.records.run import Run, open_run
from eom.records.table import Row
from eom.records.writer import RunWriter

__all__ = ["Row", "Run", "RunWriter", "open_run"]
