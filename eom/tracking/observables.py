"""The numbers that are followed along a run, as one vector over (quantity, group)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from eom.dynamics.observable import GroupSum
from eom.errors import SettingError
from eom.objective.parameters import Layout

UserObservable = Callable[[dict[str, Tensor]], Tensor]


class Observables:
    """|theta_g|^2 and |theta_g| of every group, and the user's own numbers; float64, on the CPU.

    Args:
        own: {name: function of {parameter name: tensor} -> one real number}, differentiable.
    """

    def __init__(self, layout: Layout, groups: Mapping[str, Tensor], own: Mapping[str, UserObservable]):
        self._layout = layout
        self._sum = GroupSum(groups)
        self.own = dict(own)
        self.labels = [(q, g) for q in ("norm_squared", "norm") for g in groups]
        self.labels += [(name, "all") for name in own]

    def values(self, theta: Tensor) -> Tensor:
        """[q] at theta [n]."""
        squares = self._sum(theta.square())
        named = self._layout.unflatten(theta)
        own = [float(f(named)) for f in self.own.values()]
        return torch.cat([squares, squares.sqrt(), squares.new_tensor(own)]).cpu()

    def derivative(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """v [n] -> grad q(theta) . v, [q]."""
        norms = self._sum(theta.square()).sqrt()
        gradients = [self._gradient(name, f, theta) for name, f in self.own.items()]

        def along(v: Tensor) -> Tensor:
            half = self._sum(theta * v)
            own = [torch.dot(g, v).double() for g in gradients]
            return torch.cat([2 * half, half / norms, torch.stack(own) if own else norms[:0]]).cpu()

        return along

    def _gradient(self, name: str, f: UserObservable, theta: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            value = f(self._layout.unflatten(leaf))
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise SettingError(
                    f"observable {name!r} gave {found}, expected one real number as a tensor that depends on the parameters "
                    "it is given: use them as they are, without .detach() or .item()"
                )
            return torch.autograd.grad(value.reshape(()), leaf)[0]


def check_names(own: Mapping[str, UserObservable], taken: Sequence[str]) -> None:
    """Raise where the name of an observable is not a plain, free one."""
    for name in own:
        if not name or name in taken or name.endswith(("_rate", "_displacement")):
            raise SettingError(f"observable {name!r} has a name that is taken: choose another one")
