"""What is measured of a training beside norms and rates: quantities that are handed to the tracker."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from torch import Tensor

from eom.errors import SettingError
from eom.objective import Objective
from eom.records import Row
from eom.tracking.observables import DERIVED

Found = tuple[str, float, float | None]  # a number's name, its value, its bar


class Quantity(Protocol):
    """Measured at one of ``every`` records: called with the loss of the remembered batch, and theta [n]."""

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> dict[str, str]:  # of every number that it gives
        ...
    @property
    def every(self) -> int: ...
    def check(self, objective: Objective) -> None:
        """Raise an ``EomError`` where it cannot be measured; called with the loss of the first batch."""
        ...

    def __call__(self, objective: Objective, theta: Tensor) -> Iterable[Found]: ...


class Quantities:
    """The quantities of a run; one that fails is withheld from there on, and ``notice`` told why."""

    def __init__(self, given: Sequence[Quantity], taken: Sequence[str], notice: Callable[[str, str], None]):
        """
        Raises:
            SettingError: something that is no quantity, or a name that is taken.
        """
        self._given, self._notice = list(given), notice
        self.units: dict[str, str] = {}
        for quantity in self._given:
            units, every = getattr(quantity, "units", None), getattr(quantity, "every", None)
            if not (callable(quantity) and isinstance(units, dict) and hasattr(quantity, "check")):
                raise SettingError(
                    f"a quantity is {quantity!r}, expected an object with name, units, every and check, that is called "
                    "with (objective, theta), such as eom.stochastic.gradient_noise()"
                )
            if not (type(every) is int and every >= 1):
                raise SettingError(f"every of the quantity {quantity.name!r} is {every!r}, expected 1 or more")
            for name in units:
                if name in self.units or name in taken or name.endswith(DERIVED):
                    raise SettingError(f"the quantity {quantity.name!r} gives {name!r}, a name that is taken")
            self.units |= units

    def __bool__(self) -> bool:
        return bool(self._given)

    def check(self, objective: Objective) -> None:
        """Raise where one of them cannot be measured on the first batch."""
        for quantity in self._given:
            quantity.check(objective)

    def due(self, records: int) -> list[Quantity]:
        """Those whose turn it is at the last one of so many records."""
        return [q for q in self._given if (records - 1) % q.every == 0]

    def rows(self, records: int, step: int, time: float, objective: Objective, theta: Tensor) -> list[Row]:
        """Of the quantities that are due at this record."""
        found = []
        for quantity in self.due(records):
            try:
                numbers = [(n, float(value), bar) for n, value, bar in quantity(objective, theta.clone())]
                if other := {n for n, *_ in numbers} - quantity.units.keys():
                    raise SettingError(f"it gave {', '.join(sorted(other))}, of which its units say nothing")
            except Exception as failure:  # a user's own quantity may raise anything
                self._given.remove(quantity)
                why = f"it raised {type(failure).__name__}: {failure}"
                self._notice("quantity_failed", f"quantity {quantity.name!r} is withheld from here on: {why}")
                continue
            found += [Row(step, time, "all", name, "measured", value, bar) for name, value, bar in numbers]
        return [row for row in found if not math.isnan(row.value)]
