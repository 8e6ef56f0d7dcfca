"""Runs that can be compared: what each begins with, in words where two differ, and how it went."""

import json
import os
from collections.abc import Iterable, Sequence
from math import isclose
from numbers import Real
from pathlib import Path

import numpy as np

from eom.analysis.errors import orders
from eom.analysis.reading import AnyRun, Reading
from eom.analysis.words import label, number
from eom.errors import NotARunError
from eom.records.manifest import DIVERGED, MANIFEST, SWEEP

SAME = {
    "model": "another model",
    "batch": "another first batch",
    "parameters": "other initial parameters",
    "constants": "other frozen parameters or buffers",
    "optimizer": "another optimizer",
    "settings": "other settings of the optimizer",
}
SAME_LOSS = 1e-3  # relative difference of two losses at one start that rounding, to half precision, explains
RATES = ("lr", "initial_lr")
HOW = ("foreach", "fused", "capturable", "differentiable")  # settings that change no step
EXPLODED = 1e3  # times its first loss that the last one of a run may be


def families_of(readings: Iterable[Reading]) -> list[list[Reading]]:
    """Runs that begin alike, together."""
    found: list[list[Reading]] = []
    for reading in readings:
        home = next((family for family in found if not apart(reading, family[0])), None)
        if home is None:
            found.append([reading])
        else:
            home.append(reading)
    return found


def weight(family: list[Reading]) -> tuple[bool, int, int]:
    """What of several families the page is about: two runs or more, most of them with predictions, most of all."""
    return len(family) > 1, sum(bool(orders(reading.rows)) for reading in family), len(family)


def rising(family: list[Reading]) -> list[Reading]:
    """Runs by their learning rate."""
    return sorted(family, key=lambda r: (rate(r), str(r.path)))


def inside(run: AnyRun) -> Sequence[AnyRun]:
    """The runs in a folder of runs; anything else is a run itself."""
    if isinstance(run, str | os.PathLike) and (folder := Path(run)).is_dir() and not (folder / MANIFEST).exists():
        found = [path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))]
        if not found:
            raise NotARunError(f"{folder} holds no run, nor folders of runs")
        return found
    return [run]


def unrecorded(run: AnyRun) -> dict[str, str]:
    """{name: why} of the runs of a sweep's folder that failed before their first record."""
    try:
        folder = Path(run)  # type: ignore[arg-type] - or it raises
        failed = json.loads((folder / SWEEP).read_bytes())["failed"].items()
        return {label(str(k)): label(str(v), 300) for k, v in failed if not (folder / k / MANIFEST).exists()}
    except (OSError, TypeError, ValueError, KeyError, AttributeError):
        return {}


def begins(reading: Reading) -> dict[str, str]:
    """The hashes of what a run begins with, and its optimizer."""
    found = (reading.manifest.get("sha256") or {}) | {"optimizer": str(reading.settings.get("optimizer", ""))}
    own = reading.settings.get("optimizer_settings") or {}
    set_to = {k: float(v) if isinstance(v, Real) else v for k, v in own.items() if k not in (*RATES, *HOW)}
    return {name: found.get(name, "") for name in SAME} | {"settings": repr(sorted(set_to.items()))}


def apart(reading: Reading, other: Reading) -> str:
    """In what a run begins unlike another."""
    mine, its = begins(reading), begins(other)
    said = [detailed(name, reading, other) for name in SAME if mine[name] != its[name]]
    here, there = first_loss(reading), first_loss(other)
    if not said and here is not None and there is not None and not isclose(here, there, rel_tol=SAME_LOSS):
        said = [f"another loss function, {number(here)} at the start where it is {number(there)}"]
    return " and ".join(said)


def first_loss(reading: Reading) -> float | None:
    """The loss before the first step, if that was recorded."""
    loss = reading.measured("loss")
    return float(loss.value.iloc[0]) if len(loss) and loss.step.iloc[0] == 0 else None


def detailed(name: str, reading: Reading, other: Reading) -> str:
    """What is other about a run, with the numbers that say it."""
    if name == "settings":
        mine, its = (r.settings.get("optimizer_settings") or {} for r in (reading, other))
        new = [f"{k} {mine[k]}" for k in sorted(mine) if k not in (*RATES, *HOW) and mine[k] != its.get(k)]
        return f"{SAME[name]} ({', '.join(new)})" if new else SAME[name]
    mine, its = ((r.manifest.get("data") or {}).get("samples") for r in (reading, other))
    return f"{SAME[name]} (of {mine:g} samples)" if name == "batch" and mine != its and mine else SAME[name]


def rate(reading: Reading) -> float:
    """The learning rate of a run, the largest that it had."""
    recorded = reading.measured("lr").value
    return float(recorded.max() if len(recorded) else reading.settings.get("reference_lr") or np.nan)


def exploded(reading: Reading) -> bool:
    """Whether a run diverged, or its last loss is a thousand times its first one."""
    loss, events = reading.measured("loss").value, reading.events()
    diverged = (events.kind == "loss_not_finite").any() or events.message.str.endswith(DIVERGED).any()
    return bool(diverged) or (len(loss) > 1 and not abs(loss.iloc[-1]) <= EXPLODED * abs(loss.iloc[0]))


def ending(reading: Reading) -> str:
    """How a run ended: as planned, by an error, or not at all."""
    if "finished" in reading.manifest:
        return "finished"
    events = reading.events()
    stopped = events.message.loc[events.kind == "interrupted"]
    return str(stopped.iloc[-1]) if len(stopped) else "not finished"
