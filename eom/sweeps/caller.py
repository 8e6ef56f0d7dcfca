"""The process that a sweep was called in, as its workers know it, and what they have begun for it."""

import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from eom.errors import FolderInUseError
from eom.objective.shards import ended
from eom.records.writer import LOCK

ATTEMPTS = 2  # of one run, in whose course its process may die once
DIED = "its process died; too little memory is the usual cause"
BEGUN = ".begun"  # a folder of marks, one byte for each attempt
LOOK = 1.0  # seconds from one look at whether the caller is alive to the next
PATIENCE = 30.0  # seconds to wait for a process that still writes to a run's folder


@dataclass
class Caller:
    """Who called, and when this process has last seen that it is alive."""

    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    token: str = field(default_factory=lambda: uuid4().hex)
    seen: float = 0.0

    def require(self) -> None:
        """End this run where the caller was killed: another sweep may be at work in its folder by now."""
        now = time.monotonic()
        if now - self.seen > LOOK:
            self.seen = now
            if self.process != os.getpid() and ended(self.host, self.process):
                raise SystemExit("the sweep was killed that this run belongs to")


def begun(folder: Path, token: str) -> int:
    """How often the run of this folder was begun for this caller, this time included."""
    mark = folder.parent / BEGUN / f"{token}-{folder.name}"
    with suppress(OSError):  # a full disk, of which the run will say more
        mark.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("ab") as file:
            file.write(b".")
            return file.tell()
    return 1


def clear(folder: Path) -> None:
    """Remove an unfinished run, once nobody writes to it any more.

    Raises:
        FolderInUseError: somebody goes on writing.
    """
    if folder.exists():
        try:
            FileLock(folder / LOCK).acquire(timeout=PATIENCE).lock.release()
        except Timeout:
            raise FolderInUseError(f"{folder} is being written to by another process") from None
        shutil.rmtree(folder, ignore_errors=True)
