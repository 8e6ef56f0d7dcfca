"""The folder of a sweep: what its runs have in common, which are over, and why others failed."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eom.analysis.words import listed
from eom.errors import (
    DamagedRunError,
    FolderInUseError,
    FolderNotWritableError,
    FolderUsedError,
    NotARunError,
)
from eom.records import Run, open_run
from eom.records.manifest import DIVERGED, SWEEP, replace
from eom.sweeps.grid import Cell

LOCK = ".lock"


@dataclass
class Folder:
    """A sweep on disk: what is ``asked`` of all runs, their ``names``, and what they begin with.

    ``starts`` {"start with seed 0": {"parameters": hash, ...}, "optimizer SGD": {"momentum": 0, ...}}.
    """

    path: Path
    asked: Mapping[str, Any]
    starts: dict[str, dict[str, Any]]
    names: list[str]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against other sweeps, and go on with what was begun in it.

        Raises:
            FolderInUseError: another sweep is at work in it.
            FolderUsedError: it holds a sweep of other runs.
            FolderNotWritableError: it cannot be made or written.
        """
        lock = FileLock(self.path / LOCK, thread_local=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise FolderInUseError(f"{self.path} is in use by another sweep: wait for it, or choose another") from None
        except (OSError, ValueError) as error:
            raise self._not_writable(error) from error
        try:
            self._join(self._before())
            self.write({})
            yield
        finally:
            lock.release()

    def _before(self) -> dict[str, Any]:
        file, kinds = self.path / SWEEP, {"asked": dict, "starts": dict, "runs": list}
        if not file.exists():
            return {}
        try:
            found = json.loads(file.read_bytes())
            if all(isinstance(found[name], kind) for name, kind in kinds.items()):
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise FolderUsedError(f"{file} cannot be read as that of a sweep: choose another folder, or delete it")

    def _join(self, before: dict[str, Any]) -> None:
        """Take what was begun into this sweep, if its runs are of the same kind."""
        asked, starts, runs = before.get("asked", self.asked), before.get("starts", {}), before.get("runs", [])
        if foreign := [name for name in self.names if name not in runs and (self.path / name).exists()]:
            raise FolderUsedError(
                f"{self.path} holds {', '.join(foreign)}, which this sweep has not made: choose another folder"
            )
        other = differing(asked, json.loads(json.dumps(self.asked)))
        places: dict[str, list[str]] = {}
        for of, now in self.starts.items():
            then = starts.get(of, now)
            for k in sorted(now.keys() | then):
                if not alike(then.get(k), now.get(k)):
                    places.setdefault(k, []).append(of)
        other += [f"{k} ({listed(ofs)})" for k, ofs in places.items()]
        if other:
            raise FolderUsedError(
                f"{self.path} holds a sweep with other {' and '.join(dict.fromkeys(other))}, whose runs do not belong "
                "beside these: choose another folder"
            )
        self.starts = starts | self.starts
        self.names = list(dict.fromkeys([*runs, *self.names]))

    def write(self, failed: Mapping[str, str]) -> None:
        """Put down what the sweep is of, and {run: why it failed}.

        Raises:
            FolderNotWritableError: it cannot be written.
        """
        entries = {"asked": self.asked, "starts": self.starts, "runs": self.names, "failed": failed}
        try:
            replace(self.path / SWEEP, json.dumps(entries, indent=1).encode())
        except OSError as error:
            raise self._not_writable(error) from error

    def of(self, cell: Cell) -> Path:
        return self.path / cell.name

    def run(self, cell: Cell) -> Run | None:
        """The run as it stands, if there is one that is not damaged.

        Raises:
            NewerRunError: it was written by a newer version. FolderUsedError: it cannot be read.
        """
        try:
            return undamaged(self.of(cell))
        except OSError as error:
            raise FolderUsedError(f"{self.of(cell)} cannot be read ({error}): mend that, or choose another") from error

    def outcome(self, cell: Cell) -> str | None:
        """Of a run that came to its end nothing, of one that diverged, as it would again, the message; else None."""
        run = self.run(cell)
        if run is None or whole(run):
            return None if run is None else ""
        messages = run.events().message
        return next((m for m in messages if m.endswith(DIVERGED)), None)

    def _not_writable(self, error: Exception) -> FolderNotWritableError:
        return FolderNotWritableError(f"no sweep can be written to {self.path} ({error}): choose another folder")


def undamaged(folder: Path) -> Run | None:
    """The run in this folder, if there is one that can be read."""
    try:
        run = open_run(folder)
        run.table()
        return run
    except (NotARunError, DamagedRunError):
        return None


def whole(run: Run) -> bool:
    """Whether a run came to its end, and all of its records are on the disk."""
    return "finished" in run.manifest and run.table().step.nunique() == run.manifest.get("records")


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not the same in two mappings, each with its value before."""
    found = []
    for name in before.keys() | now.keys():
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differing(old, new)
        elif old != new:
            found.append(f"{name} (before: {old}, now: {new})")
    return sorted(found)


def alike(before: Any, now: Any) -> bool:
    """Whether two values are the same; of the loss, a number, to rounding in single precision."""
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=1e-4, abs_tol=1e-6)
    return before == now
