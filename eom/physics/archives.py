"""Files of arrays, read without pickle."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from eom.errors import DataError


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by their names.

    Raises:
        DataError: no such file, another kind of file, or one that is cut off.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as failure:
        why = failure if isinstance(failure, OSError) else "it is damaged, cut off, or of another kind"
        raise DataError(f"{path} is no whole .npz file of arrays: {why}") from failure
