"""What a sweep can be given, and how it is known again."""

import re
from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eom.errors import SettingError
from eom.objective.data import digest
from eom.sweeps.pool import elsewhere
from eom.sweeps.start import MakeOptimizer, Setup
from eom.tracking.door import check_settings
from eom.tracking.moment import Settings
from eom.tracking.schedule import make_schedule
from eom.tracking.track import track


def check_tracking(settings: Mapping[str, Any]) -> None:
    """Raise unless ``eom.track`` takes these settings, so that nothing is trained in vain.

    Raises:
        SettingError: an unknown one, one that a sweep gives itself, or a value outside what it may be.
    """
    own = {"model", "optimizer", "loss_fn", "run", "resume", "disabled"}  # of each run
    known = {name: p.default for name, p in signature(track).parameters.items() if name not in own}
    if unknown := sorted(settings.keys() - known):
        raise SettingError(f"{', '.join(unknown)}: no setting of a sweep's runs, expected {', '.join(sorted(known))}")
    given = known | dict(settings)
    check_settings(Settings(**{f.name: given[f.name] for f in fields(Settings)}))
    make_schedule(given["every"])


def check_sent(setup: Setup, makers: Mapping[str, MakeOptimizer], jobs: int) -> None:
    """Raise unless another process can be given the setup and the optimizers."""
    try:
        elsewhere(callable, (setup, *makers.values()), jobs)
    except Exception as error:  # as many kinds as there are ways to fail, in pickle, loky and dask
        raise SettingError(
            f"setup or an optimizer cannot be sent to another process ({type(error).__name__}: {error}): put it into a "
            "module that can be imported there, without locks and open files, or pass jobs=1"
        ) from error


def in_words(value: Any) -> str:
    """A setting, or a function, in words that are the same in every process."""
    if isinstance(value, Mapping):
        return str({k: in_words(x) for k, x in value.items()})
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_words, value))}]"
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {digest([torch.as_tensor(value)])[:16]}"
    if hasattr(value, "__qualname__"):
        held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        held += getattr(value, "__defaults__", None) or ()
        with_what = f" with {', '.join(map(in_words, held))}" if held else ""
        return f"{value.__module__}.{value.__qualname__}{with_what}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
