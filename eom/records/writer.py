"""Writes a run to its folder."""

import io
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from eom.errors import FolderInUseError, FolderNotWritableError, FolderUsedError, RecordsNotWritten
from eom.records.journal import Journal
from eom.records.manifest import ARRAYS, FORMAT, MANIFEST, SCHEMA, read_manifest, replace, write_manifest
from eom.records.table import EVENTS, HEADER, NONE, TABLE, Row, before_step, encode, encode_event, open_whole

if TYPE_CHECKING:
    import numpy as np

LOCK = ".lock"


class RunWriter:
    """The one writer of a run folder, made by ``create`` or ``resume``, closed by ``close`` or ``with``."""

    def __init__(self, path: Path, manifest: dict[str, Any], lock: FileLock):
        self.path = path
        self._manifest = manifest
        self._manifest_waits = False
        self._lock = lock
        self._table = Journal(path / TABLE)
        self._events = Journal(path / EVENTS)

    @classmethod
    def create(cls, path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> "RunWriter":
        """Start a run in a new folder.

        Raises:
            FolderUsedError: the folder already holds a run, or the path is a file.
            FolderInUseError: another writer has it open.
            FolderNotWritableError: the folder cannot be made or written.
        """
        folder = Path(path)
        try:
            if folder.exists() and not folder.is_dir():
                raise FolderUsedError(f"{folder} is a file, expected a folder for the run: choose another path")
            folder.mkdir(parents=True, exist_ok=True)
        except FolderUsedError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise not_writable(folder, error) from error
        entries = {"format": FORMAT, "schema": SCHEMA, **manifest}

        def prepare() -> None:
            used = [name for name in (MANIFEST, TABLE, EVENTS, ARRAYS) if (folder / name).exists()]
            if used:
                raise FolderUsedError(
                    f"{folder} already holds {' and '.join(used)}, expected a new or empty folder: choose "
                    "another one, delete this one, or continue its run with resume=STEP"
                )
            write_manifest(folder, entries)
            for name, header in HEADER.items():
                (folder / name).write_bytes(header)

        return cls._open(folder, entries, prepare)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        step: int,
        manifest: Mapping[str, Any],
        again: Mapping[int, tuple[str, ...]] = NONE,
    ) -> "RunWriter":
        """Continue a run from ``step``: its rows and events from there on are dropped, the earlier ones kept.

        Of the earlier rows those are dropped whose step is in ``again`` and whose quantity ends like one of those
        named there: they belong to records that were open at ``step``, and will be written again.

        The manifest stays as it was, but gets an entry in its list "resumed", with the command and the time
        taken from ``manifest``; it is no longer finished.

        Raises:
            NotARunError, NewerRunError, DamagedRunError: there is no run to continue.
            FolderInUseError: another writer has it open.
            FolderNotWritableError: the folder cannot be written.
        """
        folder = Path(path)
        entries = read_manifest(folder)
        entries.pop("finished", None)
        entry = {"step": step, "command": manifest.get("command"), "created": manifest.get("created")}
        entries["resumed"] = [*entries.get("resumed", []), entry]

        def prepare() -> None:
            drop_from(folder / TABLE, step, again)
            drop_from(folder / EVENTS, step)
            write_manifest(folder, entries)

        return cls._open(folder, entries, prepare)

    @classmethod
    def _open(cls, folder: Path, entries: dict[str, Any], prepare: Callable[[], None]) -> "RunWriter":
        """Take the lock, prepare the folder under it, and hold it; it is let go of where that fails."""
        lock = FileLock(folder / LOCK, thread_local=False)
        with ExitStack() as failed:
            try:
                lock.acquire(blocking=False)
                failed.callback(lock.release)
                prepare()
                writer = cls(folder, entries, lock)
            except Timeout:
                raise FolderInUseError(
                    f"{folder} is in use by another writer: wait for it to end, or choose another folder"
                ) from None
            except FolderUsedError:
                raise
            except OSError as error:
                raise not_writable(folder, error) from error
            failed.pop_all()
        return writer

    def append(self, rows: Iterable[Row]) -> None:
        """Append rows; after the return a kill of the process loses none of them.

        Raises:
            RecordsNotWritten: the disk is full; the rows wait and are written with the next ones.
        """
        self._table.append(*encode(rows))

    def event(self, step: int, time: float, kind: str, message: str) -> None:
        """Append an event, like ``append``; ``kind`` is one word, ``message`` a sentence."""
        self._events.append(encode_event(step, time, kind, message), 1)

    def update(self, **entries: Any) -> None:
        """Merge entries into the manifest.

        Raises:
            RecordsNotWritten: the disk is full; the old manifest stands, and ``close`` tries again.
        """
        self._manifest.update(entries)
        self._manifest_waits = True
        try:
            write_manifest(self.path, self._manifest)
        except OSError as error:
            raise RecordsNotWritten(
                f"{self.path / MANIFEST} could not be replaced ({error}); the old one stands. Make room on the disk."
            ) from error
        self._manifest_waits = False

    def arrays(self, **arrays: "np.ndarray") -> None:
        """Replace the arrays of the run by these.

        Raises:
            TypeError: an array of Python objects.
            RecordsNotWritten: the disk is full; the old arrays stand, these are not kept.
        """
        import numpy as np

        if pickled := [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]:
            raise TypeError(f"arrays {pickled} hold objects, expected numbers: nothing is pickled into a run")
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type] - stub takes no names
        try:
            replace(self.path / ARRAYS, buffer.getvalue())
        except OSError as error:
            raise RecordsNotWritten(
                f"{self.path / ARRAYS} could not be replaced ({error}); the old one stands. Make room on the disk."
            ) from error

    def close(self) -> None:
        """Write what waits, and let the folder go; it is let go of even where that raises.

        Raises:
            RecordsNotWritten: the disk is still full; what waited is lost.
        """
        with ExitStack() as last:
            last.callback(self._lock.release)
            last.callback(self._table.close)
            last.callback(self._events.close)
            if self._manifest_waits:
                self.update()

    def discard(self) -> None:
        """Take back a new run: remove what was written, and the folder where nothing else is in it."""
        with suppress(RecordsNotWritten):
            self.close()
        for name in (MANIFEST, TABLE, EVENTS, ARRAYS, LOCK):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def not_writable(folder: Path, error: Exception) -> FolderNotWritableError:
    return FolderNotWritableError(f"no run can be written to {folder} ({error}): choose another folder")


def drop_from(path: Path, step: int, again: Mapping[int, tuple[str, ...]] = NONE) -> None:
    """Drop the torn end of a table, every row from ``step`` on, and those named in ``again``, at once."""
    rows, _ = open_whole(path)
    with rows:
        replace(path, b"".join(before_step(rows, step, again)) or HEADER[path.name])
