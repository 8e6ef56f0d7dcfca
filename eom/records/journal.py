"""An append-only file in which every row is whole, on a disk that may be full for a while."""

from pathlib import Path

from eom.errors import RecordsNotWritten


class Journal:
    """Appends rows to ``path``; what the disk does not take waits in memory, in order."""

    def __init__(self, path: Path):
        self.path = path
        self.waiting = 0  # rows
        self._unwritten = bytearray()
        self._file = path.open("ab", buffering=0)
        self._length = path.stat().st_size

    def append(self, lines: bytes, rows: int) -> None:
        """Write rows that are waiting, then these; after the return a kill of the process loses none.

        Raises:
            RecordsNotWritten: the disk did not take them. The file ends at its last whole row as before.
        """
        self._unwritten += lines
        self.waiting += rows
        self.flush()

    def flush(self) -> None:
        """Write what is waiting, or raise ``RecordsNotWritten``."""
        try:
            # From the start again each time: a table cut off at an earlier length holds no part of a row.
            with memoryview(self._unwritten) as rest:
                done = 0
                while done < len(rest):
                    done += self._file.write(rest[done:])
        except OSError as error:
            self._file.truncate(self._length)
            raise RecordsNotWritten(
                f"{self.path} could not be written ({error}); {self.waiting} rows wait in memory and are "
                "tried again at the next record. Make room on the disk.",
                self.waiting,
            ) from error
        except BaseException:
            self._file.truncate(self._length)
            raise
        self._length += len(self._unwritten)
        self._unwritten.clear()
        self.waiting = 0

    def close(self) -> None:
        """Write what is waiting, and close the file, even where that raises ``RecordsNotWritten``."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()
