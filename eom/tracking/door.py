"""Checks of what a user hands to ``eom.track``."""

from typing import Any

import torch
from torch.utils.data import DataLoader

from eom.errors import SettingError
from eom.objective.data import Batches
from eom.objective.objective import PRODUCTS
from eom.tracking.moment import Settings


def check_settings(settings: Settings) -> None:
    """Raise where a setting is outside what it may be."""
    if settings.order is not None and not (_whole(settings.order, 0) and settings.order <= 2):
        raise SettingError(
            f"order is {settings.order!r}, expected 0, 1, 2 or None: rates are predicted by terms, which end at order 2"
        )
    if settings.product not in PRODUCTS:
        raise SettingError(f"product is {settings.product!r}, expected one of {', '.join(map(repr, PRODUCTS))}")
    for name, value, least in (
        ("sharpness", settings.sharpness, 0),
        ("horizon", settings.horizon, 1),
        ("horizons", settings.horizons, 1),
    ):
        if not (_whole(value, least) or (name == "horizon" and value is None)):
            raise SettingError(f"{name} is {value!r}, expected a whole number, {least} or more")
    if settings.horizon and settings.order is None:
        raise SettingError("a horizon asks for predictions, and order=None for none: pass order=1")
    if settings.precision not in (None, torch.float32, torch.float64):
        raise SettingError(f"precision is {settings.precision!r}, expected torch.float32 or torch.float64")


def whole_data(data: Any) -> Batches | None:
    """The data that displacements are about, if given."""
    if isinstance(data, DataLoader) and data.persistent_workers:
        raise SettingError(
            "data is a DataLoader with persistent_workers, which is in one pass at a time: pass another one without"
        )
    return None if data is None else Batches(data)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
