"""The numbers that are followed along a run, as one vector over (quantity, group)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eom.dynamics.observable import GroupSum, IndexSets
from eom.errors import SettingError
from eom.objective.data import digest
from eom.objective.parameters import Layout
from eom.tracking.snapshot import kept_generators

UserObservable = Callable[[dict[str, Tensor]], Tensor]
HELD = 1 << 22  # parameters up to which a copy in float64 is held along a record, which spares making it again
DERIVED = ("_rate", "_displacement")


class Observables:
    """|theta_g|^2 and |theta_g| of every group, and the user's own numbers; float64, on the CPU.

    Args:
        own: {name: function of {parameter name: float64 tensor} -> one real number}, differentiable.
        notice: takes an event where one of them fails on the way; it is NaN from there on.
    """

    def __init__(
        self,
        layout: Layout,
        groups: IndexSets,
        own: Mapping[str, UserObservable],
        notice: Callable[[str, str], None],
    ):
        self._layout = layout
        self.groups, self.sum = list(groups), GroupSum(groups, layout.sizes)
        self._notice = notice
        self.own = dict(own)
        self.lost: set[str] = set()
        self.identity = {g: digest([torch.tensor(groups.runs(g))]) for g in groups} | dict.fromkeys(own, "")
        self.labels = [(q, g) for q in ("norm_squared", "norm") for g in groups]
        self.labels += [(name, "all") for name in own]

    def values(self, theta: Tensor) -> Tensor:
        """[q] at theta [n]."""
        squares = self.sum.inner(theta, theta)
        if not self.own:
            return torch.cat([squares, squares.sqrt()]).cpu()
        named = self._layout.unflatten(theta.double())
        own = [self._try(name, lambda f=f: float(f(named)), torch.nan) for name, f in self.own.items()]
        return torch.cat([squares, squares.sqrt(), squares.new_tensor(own)]).cpu()

    def at(self, parameters: Sequence[Tensor]) -> Tensor:
        """[q] at the parameters themselves; they are put together only where they must be."""
        if not self.by_tensor:
            return self.values(self._layout.flatten(parameters))
        flat = [p.detach().reshape(-1) for p in parameters]
        squares = self.sum.inner_of(flat, flat)
        return torch.cat([squares, squares.sqrt()]).cpu()

    @property
    def by_tensor(self) -> bool:
        """Whether everything followed is a sum over pieces of tensors."""
        return self.sum.by_tensor and not self.own

    def derivative(self, theta: Tensor) -> "Derivative":
        """grad q at theta [n]."""
        wide = theta.double() if self.own or theta.numel() <= HELD else theta
        nothing = torch.tensor([torch.nan], dtype=torch.float64, device=theta.device).expand(theta.numel())
        gradients = [
            self._try(name, lambda name=name, f=f: self._gradient(name, f, wide), nothing)
            for name, f in self.own.items()
        ]
        return Derivative(self.sum, self._layout.sizes, wide, gradients)

    def check(self, theta: Tensor) -> None:
        """Raise where one of the user's observables cannot be followed from theta [n]."""
        for name, f in self.own.items():
            self._gradient(name, f, theta.double())
            first, second = (float(f(self._layout.unflatten(theta.double()))) for _ in range(2))
            if first != second:
                raise SettingError(
                    f"observable {name!r} gave {first:.6g} and then {second:.6g} at the same parameters, expected one "
                    "finite number that depends on them only: no randomness, no NaN"
                )

    def _try(self, name: str, evaluate: Callable[[], Any], otherwise: Any) -> Any:
        if name in self.lost:
            return otherwise
        try:
            with kept_generators():
                return evaluate()
        except Exception as failure:  # the user's own function may raise anything
            self.lost.add(name)
            self._notice(
                "observable_failed",
                f"observable {name!r} is withheld from here on: it raised {type(failure).__name__}: {failure}",
            )
            return otherwise

    def _gradient(self, name: str, f: UserObservable, theta: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            try:
                value = f(self._layout.unflatten(leaf))
            except Exception as failure:  # the user's own function may raise anything
                raise SettingError(
                    f"observable {name!r} raised {type(failure).__name__}: {failure}. It is called with a dict from "
                    "the names of the trainable parameters to float64 tensors, which it must leave as they are."
                ) from failure
            gradient = None
            if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point() and value.requires_grad:
                (gradient,) = torch.autograd.grad(value.reshape(()), leaf, allow_unused=True)
        if gradient is None:
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise SettingError(
                f"observable {name!r} gave {found}, expected one real number as a tensor that depends on the "
                "parameters it is given: use them as they are, without .detach() or .item()"
            )
        return gradient


class Derivative:
    """v -> grad q(theta) . v, [n] -> [q], for the norms from the halves <theta_g, v_g> of |theta_g|^2's rate."""

    def __init__(self, total: GroupSum, sizes: Sequence[int], theta: Tensor, own: Sequence[Tensor]):
        self.sum, self._sizes, self._theta, self._own = total, sizes, theta, own
        self.squares = total.inner(theta, theta)  # [g]
        self.by_tensor = total.by_tensor and not own  # ``half_along`` can be asked

    def __call__(self, v: Tensor) -> Tensor:
        own = [torch.dot(g, v.to(g)) for g in self._own]
        return self.rates(self.sum.inner(self._theta, v), own)

    def rates(self, half: Tensor, own: list[Tensor] | None = None) -> Tensor:
        """[q] from the halves [g]."""
        return torch.cat([2 * half, half / self.squares.sqrt(), torch.stack(own) if own else half[:0]]).cpu()

    def half_along(self, tensors: Sequence[Tensor]) -> Tensor:
        """[g] <theta_g, v_g> for v given as its tensors."""
        return self.sum.inner_of(self._theta.split(self._sizes), [x.detach().reshape(-1) for x in tensors])


def check_names(own: Mapping[str, UserObservable], taken: Sequence[str]) -> None:
    """Raise where an observable is no function, or its name is not a plain, free one."""
    for name, f in own.items():
        if not isinstance(name, str) or not name or name in taken or name.endswith(DERIVED):
            raise SettingError(f"observable {name!r} has a name that is taken, or no name: choose another one")
        if not callable(f):
            raise SettingError(f"observable {name!r} is {f!r}, expected a function of the named parameters")
