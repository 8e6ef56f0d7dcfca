"""Where the rows and events of a running training go; nothing that goes wrong there, or before, stops the training."""

import sys
import time as clock
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from eom.errors import RecordsNotWritten, TrackingWarning, warn_user
from eom.records import Row, RunWriter

EVENTS_PER_KIND = 100


class Log:
    """The writer of a run, the place that the run has come to, and the guard around all that the tracker does.

    ``begun`` says whether the first step was taken: before it errors are raised, from there on they become events.
    ``seconds`` counts the time spent under guard.
    """

    def __init__(self) -> None:
        self.writer: RunWriter | None = None
        self.step, self.time = 0, 0.0
        self.begun = False
        self.seconds = 0.0
        self._counts: dict[str, int] = {}

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; what a full disk does not take waits in memory."""
        if self.writer is None:
            return
        try:
            self.writer.append(rows)
        except RecordsNotWritten as failure:
            self.event("not_written", str(failure))
        if not self.writer.path.is_dir():
            self.event("not_written", f"{self.writer.path} is gone: what is recorded from here on is lost")

    def describe(self, **entries: Any) -> None:
        """Merge entries into the manifest.

        Raises:
            RecordsNotWritten: before the first step, the disk is full.
        """
        if self.writer is None:
            return
        try:
            self.writer.update(**entries)
        except RecordsNotWritten as failure:
            if not self.begun:
                raise
            self.event("not_written", str(failure))

    def close(self, *, discard: bool = False) -> None:
        """Write what waits, and let the folder go; or ``discard`` a run that took no step."""
        writer, self.writer = self.writer, None
        if writer is None:
            return
        try:
            writer.discard() if discard else writer.close()
        except RecordsNotWritten as failure:
            self.event("lost", f"what waited when the run ended could not be written, and is lost: {failure}")

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Let the folder go where the block raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def event(self, kind: str, message: str, warn: bool = True) -> None:
        """Log an event, and warn at the first of its kind."""
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if self.writer is not None and count <= EVENTS_PER_KIND:
            with suppress(Exception):  # the disk may be what the event is about
                self.writer.event(self.step, self.time, kind, message)
        if warn and count == 1:
            text = f"eom, step {self.step}: {message}"
            try:
                warn_user(text, TrackingWarning)
            except TrackingWarning:  # the user's filter makes errors of warnings
                print(text, file=sys.stderr)

    @contextmanager
    def guard(self, what: str, otherwise: Callable[[], None] = lambda: None) -> Iterator[None]:
        """After the first step no error leaves the block: it becomes an event, and ``otherwise`` is called."""
        start = clock.perf_counter()
        try:
            yield
        except Exception as failure:  # whatever it is, the training goes on
            if not self.begun:
                raise
            otherwise()
            self.event("failed", f"{what} could not be followed ({type(failure).__name__}: {failure})")
        finally:
            self.seconds += clock.perf_counter() - start
