"""What systems are not made of, and periodic grids do not hold."""

from collections.abc import Callable
from functools import partial
from math import isfinite, prod
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eom.dynamics.energy import gradient, numbers
from eom.errors import DataError, EomError, SettingError

SEAM = 4.0  # times the largest jump inside of the same state, beyond which a grid has an edge
ROUNDING = 1e-12, 16  # of the largest value; times that of its floats
APART = 1e-6  # of it, by which neighbours of a repeated point differ, far from rounding


def require_positive(**settings: float) -> None:
    """Raise where one of them is not positive and finite."""
    wrong = [f"{name} is {x!r}" for name, x in settings.items() if not (is_number(x) and x > 0)]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}, expected positive and finite numbers")


def require_whole(**settings: Any) -> None:
    """Raise where one of them is no whole number of 1 or more."""
    wrong = [f"{name} is {x!r}" for name, x in settings.items() if type(x) is not int or x < 1]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}, expected 1 or more, as whole numbers")


def is_whole(x: Any) -> bool:
    """Whether it is a whole number, be it one of numpy's."""
    return isinstance(x, Integral) and not isinstance(x, bool)


def require_seed(seed: Any) -> None:
    """Raise where torch's generators do not take it."""
    if not is_whole(seed) or not -(2**63) <= int(seed) < 2**64:
        raise SettingError(f"seed is {seed!r}, expected a whole number of at most 64 bits")


def require_among(count: int, **chosen: Any) -> None:
    """Raise where one of them is none of so many, counted from 0 on or from -1 back."""
    there = range(-count, count)
    wrong = [f"{name} is {k!r}" for name, k in chosen.items() if not (isinstance(k, Integral) and k in there)]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}, expected a number of 0 to {count - 1}")


def require_halves(size: int) -> None:
    """Raise where states are no positions with as many momenta."""
    if size % 2:
        raise SettingError(f"size is {size}, expected positions and as many velocities or momenta: an even number")


def require_grid(grid: Any, size: int | None = None) -> None:
    """Raise where it is not the points along each axis, or states of ``size`` entries, if given, are not on it."""
    points = isinstance(grid, tuple | list) and all(type(k) is int and k > 0 for k in grid)
    if not points or (size is None and not grid):
        raise SettingError(f"grid is {grid!r}, expected the points along each axis, as (50,) or (32, 32)")
    if size is not None and size % prod(grid):
        raise SettingError(f"size is {size}, expected a multiple of the points of the grid {grid}")


def require_names(entries: Any) -> None:
    """Raise where they are not different names."""
    if not (isinstance(entries, tuple | list) and entries and all(isinstance(name, str) for name in entries)):
        raise SettingError(f"entries are {entries!r}, expected their names as a tuple, such as ('q', 'p')")
    if len(set(entries)) < len(entries):
        twice = next(name for name in entries if entries.count(name) > 1)
        raise SettingError(f"{twice!r} is the name of {entries.count(twice)} entries, expected different ones")


def require_file(path: str | Path, ending: str) -> None:
    """Raise where a file of this kind cannot be written."""
    if Path(path).suffix != ending or not Path(path).parent.is_dir():
        raise SettingError(
            f"the file is to be {path}, expected a name that ends in {ending}, in a folder that is there"
        )


def is_dense(x: Any) -> bool:
    """Whether it is a tensor whose numbers all stand in memory."""
    return isinstance(x, Tensor) and x.layout is torch.strided and not (x.is_nested or x.is_meta)


def said(x: Any) -> str:
    """What came, where a dense tensor of another kind was wanted."""
    if not isinstance(x, Tensor):
        return f"a {type(x).__name__}"
    if not is_dense(x):
        return f"a {'nested ' * x.is_nested}{x.layout} on {x.device}"
    return f"{x.dtype} of shape {list(x.shape)}"


def require_finite(name: str, x: Tensor) -> None:
    """Raise where states hold NaN or infinity."""
    lost = int((~x.isfinite()).sum())
    if lost:
        raise DataError(f"{name} holds NaN or infinity in {lost} of its {x.numel()} entries, expected finite numbers")


def require_apart(what: str, of: Callable[[Tensor], Tensor], u: Tensor) -> None:
    """Raise where ``of`` one of states [2, n] is not finite, or another beside the other than beside itself."""
    for k in (0, 1):
        beside, one, close = _compared(_drawn(of, u, k, 0), _drawn(of, u[[k, k]], k, 0))
        if not isfinite(one):
            raise DataError(f"{what} of a state is {one}, expected a finite number")
        if not close:
            raise DataError(
                f"{what} of one state is {beside:.6g} beside a second one and {one:.6g} beside itself: samples must "
                "not see each other, as in BatchNorm: call model.eval(), or take LayerNorm. Entries are u[..., 0], not "
                "u[0]"
            )


def require_fixed(what: str, of: Callable[[Tensor], Tensor], u: Tensor) -> None:
    """Raise where ``of`` the first of states [b, n] is drawn anew each time."""
    one, again, close = _compared(_drawn(of, u, 0, 0), _drawn(of, u, 0, 1))
    if not close:
        raise DataError(
            f"{what} of one state is {one:.6g} at first and {again:.6g} then: it draws random numbers, as in "
            "Dropout: call model.eval(), or leave that out"
        )


def require_energy(energy: Any, u: Tensor) -> None:
    """Raise where an energy of states [2, n] is none of each alone, has no gradient, or is drawn anew each time."""
    of = partial(numbers, energy)
    try:
        require_apart("the energy", of, u)
        of(u[:1])  # alone, where one written for a single state takes rows for entries
        gradient(energy, u)
    except EomError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as failure:
        raise DataError(
            f"the energy has no gradient at states {u.dtype} {list(u.shape)}: {failure}. It is to be made of torch "
            "functions of a batch, with entries as u[..., 0]"
        ) from failure
    require_fixed("the energy", of, u)


def _drawn(of: Callable[[Tensor], Tensor], u: Tensor, k: int, seed: int) -> Tensor:
    """``of`` state k, flat, with torch's generator at ``seed``."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return of(u)[k].flatten()


def _compared(x: Tensor, y: Tensor) -> tuple[float, float, bool]:
    """Their entries that differ most, and whether by little: batches of one shape are summed up in one order."""
    k = (x - y).abs().argmax()
    eps = torch.finfo(x.dtype).eps
    return float(x[k]), float(y[k]), torch.allclose(x[k], y[k], rtol=eps**0.5, atol=eps, equal_nan=True)


def is_number(x: Any) -> bool:
    """Whether it is one finite number."""
    try:
        return isfinite(x)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # of other things, and of tensors of several numbers
        return False


def require_periodic(states: Tensor, grid: tuple[int, ...]) -> None:
    """Raise where the last value of a grid does not lead on to the first, in any of ``states`` [..., n].

    A front at the seam is no edge: to come back to where it began, a state has another one inside, or climbs in steps
    that are each of a quarter of the jump or more. Only of trajectories [b, s, n] it is told that a point stands twice:
    a single state may have equal ends, as where it is symmetric or far from what moves.
    """
    u = (states if states.is_floating_point() else states.double()).detach().reshape(-1, *grid)
    size = float(u.abs().max())
    rounding = max(ROUNDING[0], ROUNDING[1] * torch.finfo(u.dtype).eps) * size
    for axis in (k for k in range(1, u.ndim) if u.shape[k] > 3):
        first, second, *_, before, last = u.unbind(axis)
        jump, inside = (x.abs().reshape(len(u), -1).amax(1) for x in (first - last, u.diff(dim=axis)))
        twice = float(jump.max()) <= rounding and float((second - before).abs().max()) > max(
            APART * size, 10 * rounding
        )
        if states.ndim > 2 and twice:
            raise DataError(
                f"the first and last values along axis {axis - 1} of the grid are the same throughout: on a periodic "
                "grid that point comes once; leave the last one out"
            )
        worst = int((jump - SEAM * inside).argmax())
        if float(jump[worst]) > SEAM * float(inside[worst]) + rounding:
            raise DataError(
                f"values jump by {float(jump[worst]):.3g} from the last to the first point along axis {axis - 1} of "
                f"the grid, and by {float(inside[worst]):.3g} at most between neighbours: it is not periodic, and the "
                "model assumes it is. Take a domain that is, or a plain network; or roll states whose jump is their own"
            )
