"""Files of a user's own: a table with a column of times, and frames of a film."""

import csv
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eom.errors import DataError
from eom.physics.trajectories import Trajectories

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def read_csv(path: str | Path, *, time: str, coordinates: Sequence[str], member: str | None = None) -> Trajectories:
    """Trajectories [b, s, n] of the ``coordinates``, columns of a CSV file with one row for each time.

    Args:
        time: the column of times. coordinates: those of the state: positions, then velocities or momenta.
        member: a column that tells trajectories apart, all of as many rows; without it there is one.

    Raises:
        DataError: columns that are not named or not there, entries that are no numbers or missing, with their lines;
            and whatever ``Trajectories`` does not take.
    """
    if not isinstance(path, str | Path):
        raise DataError(f"the file is {path!r}, expected its path")
    path = Path(path)
    listed = isinstance(coordinates, Sequence) and not isinstance(coordinates, str)
    wanted, runs = [time, *(coordinates if listed else ())], [] if member is None else [member]
    names_alone = all(isinstance(name, str) for name in wanted + runs)
    if len(wanted) < 2 or not names_alone or len({*wanted, *runs}) < len(wanted + runs):
        raise DataError(
            f"time is {time!r}, coordinates are {coordinates!r} and member is {member!r}, expected different names of "
            "columns, as time='t', coordinates=['q', 'p']"
        )
    if not path.is_file():
        raise DataError(f"{path} could not be read: there is no such file, or it is a folder")
    read = partial(
        pd.read_csv, path, encoding="utf-8-sig", skipinitialspace=True, compression=None
    )  # a byte-order mark is no name
    try:
        header = [str(name) for name in read(header=None, nrows=1, dtype=str).iloc[0]]
        names = [name.strip() for name in header]  # twice the same too
        if names[0].startswith("#") and names[0] != "#":
            raise DataError(f"{path} begins with {names[0]!r}, expected the names of columns: delete comments")
        if len(names) == 1:
            raise DataError(
                f"{path} has one column, {names[0]!r}, expected two or more: save it with commas between columns, in "
                "place of tabs or semicolons, and points in numbers"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            told = {name: str for name in header if name.strip() == member}  # 1.1 and 1.10 are two
            table = read(index_col=False, dtype=told)  # type: ignore[call-overload, arg-type] - a partial of overloads
    except (pd.errors.ParserError, pd.errors.ParserWarning) as failure:
        raise DataError(f"{path} could not be read as a CSV file: {_longer(path) or failure}") from failure
    except (OSError, UnicodeDecodeError, pd.errors.EmptyDataError) as failure:
        raise DataError(
            f"{path} could not be read as a CSV file in UTF-8: {failure}. Save it as one, with commas"
        ) from failure
    if table.empty:
        raise DataError(f"{path} has a header and no rows, expected one row for each time")
    table.columns = [str(name).strip() for name in table.columns]
    table = table.astype(dict.fromkeys(table.select_dtypes(bool).columns, str))  # True is no number
    absent = [name for name in wanted + runs if name not in names]
    if absent:
        raise DataError(f"{path} has the columns {', '.join(names)}, and not {', '.join(absent)}")
    twice = [name for name in wanted + runs if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has {names.count(twice[0])} columns {twice[0]!r}, expected one")
    unknown = [] if member is None else np.flatnonzero(pd.isna(table[member].to_numpy()))
    if len(unknown):
        raise DataError(
            f"{path}, line {_line(path, unknown[0])}: {member} is empty, so that its trajectory is not known"
        )
    numbers = pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in wanted})
    for name in wanted:
        wrong = np.flatnonzero(numbers[name].isna())
        if len(wrong):
            entry = table[name].iloc[wrong[0]]
            said = "is empty" if pd.isna(entry) else f"holds {entry!r}, which is no number"
            todo = "Write decimal points" if "," in str(entry) else "Delete them; times need not be even"
            todo += "" if member is None else ", but each trajectory is to have as many rows"
            if re.search(r"\d[-/:]\d", str(entry)):
                todo = "Convert dates to the time since the first"
            line = _line(path, wrong[0])
            raise DataError(f"{path}, line {line}: {name} {said} ({len(wrong)} such lines). {todo}.")
    groups = (
        [numbers]
        if member is None
        else [
            numbers.loc[rows]
            for rows in table.groupby(table[member].astype(str).str.strip(), sort=False).groups.values()
        ]
    )
    lengths = sorted({len(group) for group in groups})
    if len(lengths) > 1:
        raise DataError(
            f"{path}: trajectories have {lengths[0]} to {lengths[-1]} rows; expected as many in each: cut all to "
            f"{lengths[0]}, or longer ones into several"
        )
    times = np.stack([group[time].to_numpy() for group in groups])  # whole numbers stay so
    states = np.stack([group[list(coordinates)].to_numpy(float) for group in groups])
    try:
        return Trajectories(times, states, tuple(coordinates))  # type: ignore[arg-type] - arrays become tensors
    except DataError as failure:
        back = member is None and bool((np.diff(times[0]) <= 0).any())
        hint = " If there are several trajectories, name the column that tells them apart, as member=." if back else ""
        raise DataError(f"{path}: {failure}{hint}") from failure


def _longer(path: Path) -> str:
    """The first row of more cells than the header."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        header = next(cells for cells in reader if cells)
        for cells in reader:
            if len(cells) > len(header):
                return (
                    f"line {reader.line_num} has {len(cells)} entries, and the header names {len(header)} columns: "
                    "name them all, or put quotes around entries with commas"
                )
    return ""


def _line(path: Path, row: int) -> int:
    """Where a row of the table ends in its file, blank lines counted."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        ends = [reader.line_num for cells in reader if len(cells) > 1 or "".join(cells).strip()]
    return ends[row + 1]


def read_frames(paths: str | Path | Iterable[str | Path]) -> Tensor:
    """[s, h, w] frames in 0..1, of an .npy file [s, h, w] or a .gif, of a folder of pictures by name, or of several.

    Raises:
        DataError: no paths, no frames there, or of different sizes, or an animation among several files.
    """
    if isinstance(paths, str | Path) and Path(paths).suffix == ".npy":
        try:
            found = np.load(paths, allow_pickle=False)
        except (OSError, ValueError, EOFError) as failure:
            raise DataError(f"{paths} holds no array without pickle: {failure}") from failure
        if found.ndim != 3 or found.dtype.kind not in "uif" or not np.isfinite(found).all():
            raise DataError(
                f"{paths} is {found.dtype} of shape {list(found.shape)}, expected finite numbers [frames, h, w]"
            )
        scaled = found / 255.0 if found.dtype == np.uint8 else found.astype(float)
        if scaled.size and not (scaled.min() >= 0 and scaled.max() <= 1):
            raise DataError(f"{paths} has values {found.min():g} to {found.max():g}: scale them to 0..1, or take bytes")
        return torch.from_numpy(scaled)
    if isinstance(paths, str | Path):
        folder = Path(paths)
        paths = [paths]
        if folder.is_dir():
            paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES), key=_counted)
    several = list(paths) if isinstance(paths, Iterable) else [paths]
    other = [path for path in several if not isinstance(path, str | Path)]
    if other:
        raise DataError(
            f"a path is a {type(other[0]).__name__}, expected the names of pictures, or of one file or folder. Frames "
            "that are numbers already go to frame_pairs as they are"
        )
    try:
        films = [_film(path) for path in several]
    except OSError as failure:
        raise DataError(f"a frame could not be read: {failure}") from failure
    animated = [path for path, film in zip(several, films, strict=True) if len(film) > 1]
    if animated and len(films) > 1:
        raise DataError(f"{animated[0]} is an animation among {len(films)} files: give it alone, or its frames")
    frames = [frame for film in films for frame in film]
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise DataError(f"{len(frames)} frames of {len({f.shape for f in frames})} sizes, expected some of one size")
    return torch.from_numpy(np.stack(frames))


def _film(path: str | Path) -> list[np.ndarray]:
    """The frames [h, w] of one picture, of 16 bits or 8, or of an animation."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        wide = image.mode.startswith("I;16")
        if not wide and image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise DataError(
                f"{path} has values of mode {image.mode}, expected 8 or 16 bits: what is black and white in others is "
                "unknown. Give them as an .npy file in 0..1"
            )
        return [
            np.asarray(frame if wide else frame.convert("L"), dtype=float) / (65535 if wide else 255)
            for frame in ImageSequence.Iterator(image)
        ]


def _counted(path: Path) -> list[str | int]:
    """Names in the order of the numbers in them: frame_2 before frame_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
