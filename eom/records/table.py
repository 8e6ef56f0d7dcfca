"""Tables as text: one row per record, of which the last may be torn.

A row ends at a line feed outside quotes, which is one with an even number of quotation marks before it. This
holds at every byte, so a table that was cut off anywhere still says where its last whole row ends.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

TABLE = "table.csv"
EVENTS = "events.csv"
HEADER = {
    TABLE: b"step,time,group,quantity,source,value,bar\n",
    EVENTS: b"step,time,kind,message\n",
}
NONE: Mapping[int, tuple[str, ...]] = {}
CHUNK = 1 << 22  # bytes read at a time while looking for the last whole row


class Row(NamedTuple):
    """One number of a run: where it belongs, where it comes from, and its estimated error.

    ``time`` is the running sum of learning rates, ``bar`` is in the unit of ``value``.
    """

    step: int
    time: float
    group: str
    quantity: str
    source: str
    value: float
    bar: float | None = None


@lru_cache(maxsize=4096)  # the same few names on every row
def cell(text: str) -> str:
    """``text`` as a field of a table, quoted where it would otherwise end the field or the row."""
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text


def encode(rows: Iterable[Row]) -> tuple[bytes, int]:
    """Rows as lines, and how many. Floats take the shortest form that reads back bit for bit."""
    lines = [
        f"{int(step)},{float(time)!r},{cell(group)},{cell(quantity)},{cell(source)},{float(value)!r},"
        f"{'' if bar is None else repr(float(bar))}\n"
        for step, time, group, quantity, source, value, bar in rows
    ]
    return to_bytes("".join(lines)), len(lines)


def encode_event(step: int, time: float, kind: str, message: str) -> bytes:
    """One event as a line."""
    return to_bytes(f"{int(step)},{float(time)!r},{cell(kind)},{cell(message)}\n")


def to_bytes(text: str) -> bytes:
    # A lone surrogate has no UTF-8; a message that holds one must not stop the training it reports on.
    return text.encode("utf-8", "backslashreplace")


class Head(io.RawIOBase):
    """The first ``length`` bytes of a file that may be growing meanwhile."""

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._rest = file, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] - a wider buffer type
        part = self._file.read(min(len(buffer), self._rest))
        buffer[: len(part)] = part
        self._rest -= len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_whole(path: Path) -> tuple[BinaryIO, int]:
    """The whole rows of a table, none where a kill came before the file, and how many torn bytes follow."""
    if not path.exists():
        return io.BytesIO(), 0
    file = path.open("rb")
    whole, length = whole_rows(file)
    file.seek(0)
    return io.BufferedReader(Head(file, whole)), length - whole


def whole_rows(file: BinaryIO) -> tuple[int, int]:
    """Length in bytes of the whole rows, and of everything."""
    whole = length = quotes = 0
    while chunk := file.read(CHUNK):
        before = quotes = quotes + chunk.count(b'"')
        end = len(chunk)
        while (at := chunk.rfind(b"\n", 0, end)) >= 0:
            before -= chunk.count(b'"', at, end)
            if before % 2 == 0:
                whole = length + at + 1
                break
            end = at
        length += len(chunk)
    return whole, length


def before_step(file: BinaryIO, step: int, again: Mapping[int, tuple[str, ...]] = NONE) -> Iterator[bytes]:
    """Those rows of an open table whose step is below ``step``, byte for byte, after its header.

    Left out are those whose step is in ``again`` and whose quantity ends like one of those named there.
    """
    yield file.readline()
    row = b""
    for line in file:
        row += line
        if row.count(b'"') % 2 == 0:
            own = int(row[: row.index(b",")])
            if own < step and not (own in again and quantity_of(row).endswith(again[own])):
                yield row
            row = b""


def quantity_of(row: bytes) -> str:
    """The quantity in a row of the table of numbers."""
    return next(csv.reader(io.StringIO(row.decode(), newline="")))[3]
