"""The manifest of a run, and files that are replaced whole."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eom.errors import DamagedRunError, NewerRunError, NotARunError

MANIFEST = "manifest.json"
SWEEP = "sweep.json"  # of a folder of runs
DIVERGED = "the training diverged"  # ends the message of a run whose loss was not finite any more
ARRAYS = "arrays.npz"
FORMAT = "eom-run"
SCHEMA = 1
KINDS = {"sha256": dict, "settings": dict, "groups": list, "weights": list, "steps": int}  # of what readers rely on


def replace(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` at once: a reader, or a kill, meets the old file or the new one.

    Raises:
        OSError: the disk is full or the place is not writable; the old file still stands.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def strict(value: Any) -> Any:
    """``value`` with null for every NaN and infinity, which JSON has no words for."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: strict(item) for key, item in value.items()}
        case list() | tuple():
            return [strict(item) for item in value]
        case _:
            return value


def write_manifest(folder: Path, entries: Mapping[str, Any]) -> None:
    """Replace the manifest in ``folder``; NaN and infinities become null."""
    text = json.dumps(strict(entries), indent=1, allow_nan=False)
    replace(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in ``folder``.

    Raises:
        NotARunError: no folder, no manifest in it, or the manifest of something else.
        NewerRunError: written by a later version.
        DamagedRunError: not JSON, or without a schema.
    """
    path = folder / MANIFEST
    wanted = "expected the folder of a run, as written by eom.track"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotARunError(f"{folder} {what}, {wanted}")
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotARunError(f"{folder} holds no {MANIFEST}, {wanted}") from None
    except ValueError as error:
        raise DamagedRunError(
            f"{path} is not JSON ({error}). It is only ever replaced whole, so something else has changed "
            "it: restore it from a copy. The numbers are in table.csv beside it."
        ) from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise NotARunError(f"{path} has format {found!r}, expected {FORMAT!r}: it belongs to something else")
    schema = manifest.get("schema")
    if not isinstance(schema, int):
        raise DamagedRunError(f"{path} has schema {schema!r}, expected a whole number from 1 to {SCHEMA}")
    if schema > SCHEMA:
        raise NewerRunError(
            f"{path} has schema {schema}, this version of eom reads up to {SCHEMA}. "
            f"Update eom; the run was written by version {manifest.get('eom', 'unknown')}."
        )
    for name, kind in KINDS.items():
        if not isinstance(manifest.get(name), kind | None):
            raise DamagedRunError(f"{path} has {name} = {manifest[name]!r:.80}, expected {kind.__name__}")
    return manifest
