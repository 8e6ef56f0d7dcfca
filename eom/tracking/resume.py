"""A run that is continued: from a step, or without a seam from the state of the tracker that was interrupted."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eom.errors import SettingError
from eom.records import Row, RunWriter, open_run

if TYPE_CHECKING:
    import pandas as pd

Resume = int | Mapping[str, Any]
DISPLACEMENTS = ("_displacement", "position_error")


def check_resume(resume: Any, observables: Mapping[str, str], parameters: int) -> None:
    """Raise unless ``resume`` is a step, or the state of a tracker of the same model and observables."""
    if isinstance(resume, int) and not isinstance(resume, bool) and resume >= 0:
        return
    if not isinstance(resume, Mapping) or not {"step", "time", "recorder", "windows", "horizons"} <= set(resume):
        raise SettingError(
            f"resume is {_brief(resume)}, expected a step (0, 1, 2, ...) or what tracker.state_dict() gave: that of a "
            "disabled tracker is empty"
        )
    if (list(resume["observables"].items()), resume["parameters"]) != (list(observables.items()), parameters):
        raise SettingError(
            f"resume is the state of a tracker of {resume['parameters']} parameters that follows "
            f"{_names(resume['observables'])}; this one has {parameters} and follows {_names(observables)}, or groups "
            "with other members: pass the state of this very run, and the same groups and observables in the same order"
        )


def reopen(path: Path, resume: Resume, manifest: dict[str, Any], parameters: int) -> tuple[RunWriter, dict[str, Any]]:
    """Open a run's folder again at a step or a state: its rows from there on are dropped, and its state returned.

    Of the records that were open at that moment, whatever was written later is dropped too.

    Raises:
        SettingError: a step beyond the end of the run, or a run of another number of parameters.
    """
    state: dict[str, Any] = {"step": resume} if isinstance(resume, int) else dict(resume)
    step = state["step"]
    run = open_run(path)
    there, steps = run.manifest.get("parameters", parameters), run.manifest.get("steps", step)
    if there != parameters:
        raise SettingError(f"the run in {path} is of {there} parameters, this model has {parameters}: pass its own run")
    if step > steps:
        raise SettingError(f"resume is step {step}, but the run in {path} has {steps}: pass a step of that run")
    table = run.table()
    again: dict[int, tuple[str, ...]] = {}
    for window in state.get("windows", ()):
        again[window["step"]] = "_rate", *(Row(*row).quantity for row in window["held"])
    for horizon in state.get("horizons", ()):
        again[horizon["step"]] = again.get(horizon["step"], ()) + DISPLACEMENTS
    writer = RunWriter.resume(path, step, manifest, again)
    started = {
        "time": time_at(table, step),
        "every": run.manifest.get("every"),
        "recorder": {"records": int(table.loc[table["step"] < step, "step"].nunique())},
        "windows": [],
        "horizons": [],
        "left": None,
    }
    return writer, started | state


def changed_settings(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Those settings that a resumed run has changed, in words; empty for none."""
    before = manifest.get("settings") or {}
    return ", ".join(f"{k}={v!r} (before: {before.get(k)!r})" for k, v in settings.items() if before.get(k) != v)


def time_at(table: "pd.DataFrame", step: int) -> float:
    """Time at a step of a recorded run: its own record's, or counted on from the last one with its learning rate."""
    before = table.loc[table["step"] <= step]
    if before.empty:
        return 0.0
    last = before.loc[before["step"] == before["step"].max()]
    there, time = int(last["step"].iloc[0]), float(last["time"].iloc[0])
    lr = last.loc[last["quantity"] == "lr", "value"]
    return time + (step - there) * (float(lr.iloc[0]) if len(lr) else 0.0)


def _names(observables: Mapping[str, str]) -> str:
    return ", ".join(list(observables)[:8]) + (", ..." if len(observables) > 8 else "")


def _brief(value: Any) -> str:
    return f"a {type(value).__name__} with {sorted(value)[:3]}" if isinstance(value, Mapping) else repr(value)
