"""What was observed of a system: states at times, checked once, and cut into windows for training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eom.errors import DataError, SettingError
from eom.physics.archives import read_arrays
from eom.physics.limits import is_dense, is_number, is_whole, require_file, require_names, said


class Window(NamedTuple):
    """k + 1 states in a row, of b stretches of motion.

    ``t`` [b, k + 1], ``u`` [b, k + 1, n], the ``number`` [b] of each among all stretches of the data, the rates
    ``slope`` [b, k + 1, n] where they were observed, and the mean ``step`` [b] of the data, the same for all.
    """

    t: Tensor
    u: Tensor
    number: Tensor
    slope: Tensor | None = None
    step: Tensor | None = None

    def rows(self, chosen: Tensor) -> "Window":
        """Those of the stretches."""
        slope, step = (None if x is None else x[chosen] for x in (self.slope, self.step))
        return Window(self.t[chosen], self.u[chosen], self.number[chosen], slope, step)


@dataclass(frozen=True)
class Trajectories:
    """``states`` [b, s, n] at ``times`` [b, s], increasing, evenly or not; with rates ``slopes`` [b, s, n] if known.

    ``times`` may be given as [s] where all trajectories share them, ``entries`` names the n coordinates. Arrays become
    tensors.

    Raises:
        DataError: wrong shapes, numbers that are not finite, times that do not increase, or fewer than two of them.
        SettingError: names that are none, or twice the same.
    """

    times: Tensor
    states: Tensor
    entries: tuple[str, ...] = ()
    slopes: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("times", "states", "slopes"):
            object.__setattr__(self, name, tensor_of(name, getattr(self, name)))
        if self.states.ndim != 3 or not self.states.is_floating_point() or not self.states.numel():
            raise DataError(
                f"the {self.states.dtype} states have shape {list(self.states.shape)}, expected floats "
                "[trajectories, times, n]"
            )
        b, s, n = self.states.shape
        if self.times.shape not in ((s,), (b, s)):
            raise DataError(f"times have shape {list(self.times.shape)}, expected [{s}] or [{b}, {s}] as of the states")
        if self.times.dtype is torch.int64 and bool((self.times.double().long() != self.times).any()):
            raise DataError(
                f"times are whole numbers up to {int(self.times.max())}, of which floats lose digits: subtract the "
                "first, as of nanoseconds since 1970"
            )
        object.__setattr__(self, "times", self.times.to(torch.float64).expand(b, s))
        if isinstance(self.entries, tuple | list | None) and not self.entries:
            object.__setattr__(self, "entries", tuple(f"u{i}" for i in range(n)))
        require_names(self.entries)
        object.__setattr__(self, "entries", tuple(self.entries))
        if len(self.entries) != n:
            raise DataError(f"{len(self.entries)} names for {n} entries: {', '.join(self.entries)}")
        if self.slopes is not None and self.slopes.shape != self.states.shape:
            raise DataError(f"slopes have shape {list(self.slopes.shape)}, expected {[b, s, n]} as of the states")
        if s < 2:
            raise DataError(f"{s} points in time, expected two or more: one state says nothing of a rate")
        _require_finite(self)
        falls = (self.times.diff(dim=1) <= 0).nonzero()
        if len(falls):
            i, k = falls[0].tolist()
            came = ", then ".join(f"{x:.12g}" for x in self.times[i, k : k + 2].tolist())
            raise DataError(
                f"times of trajectory {i} repeat or fall at points {k} and {k + 1}: {came}. Sort them, and keep one "
                "state for each time; even steps are not needed."
            )

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        b, s, n = self.states.shape
        names = ", ".join(self.entries[:4]) + (f", ... ({n})" if n > 4 else "")
        span = f"times {float(self.times.min()):.4g} to {float(self.times.max()):.4g}"
        slopes = "" if self.slopes is None else ", with rates"
        return f"Trajectories({b} of {s} points, {span}, entries {names}, {self.states.dtype}{slopes})"

    @property
    def size(self) -> int:
        """n, the entries of a state."""
        return self.states.shape[-1]

    def windows(self, steps: int = 1, stride: int = 1) -> Window:
        """Stretches of ``steps`` steps, of every trajectory, each beginning ``stride`` points after the last."""
        whole = is_whole(steps) and is_whole(stride)
        if not whole or not 1 <= steps < self.states.shape[1] or stride < 1:
            raise DataError(
                f"windows of {steps!r} steps in trajectories of {self.states.shape[1]} points, {stride!r} points "
                "apart, expected whole numbers and windows of fewer steps than a trajectory has points"
            )
        steps, stride = int(steps), int(stride)
        t = self.times.unfold(1, steps + 1, stride).flatten(0, 1)  # of [b, windows, k + 1]
        u, slope = (
            None if x is None else x.unfold(1, steps + 1, stride).transpose(2, 3).flatten(0, 1).contiguous()
            for x in (self.states, self.slopes)
        )
        assert u is not None
        return Window(t, u, torch.arange(len(t)), slope, self.times.diff(dim=1).mean().expand(len(t)))

    def select(self, chosen: Sequence[int] | slice) -> "Trajectories":
        """Those trajectories."""
        try:
            rows = torch.from_numpy(np.arange(len(self))[chosen])  # which takes no 1.5 for 1
        except (IndexError, TypeError, ValueError) as failure:
            raise DataError(
                f"chosen are {chosen!r} of {len(self)} trajectories, expected numbers of 0 to {len(self) - 1}, or a "
                "slice of them"
            ) from failure
        slopes = None if self.slopes is None else self.slopes[rows]
        return replace(self, times=self.times[rows], states=self.states[rows], slopes=slopes)

    def until(self, time: float) -> tuple["Trajectories", "Trajectories"]:
        """What was seen before ``time`` and from then on.

        Raises:
            DataError: fewer than two points on a side, or more of them in some trajectories than in others.
        """
        if not is_number(time):
            raise DataError(f"time is {time!r}, expected a finite number")
        before = (self.times < time).sum(1)
        here, most = int(before.min()), int(before.max())
        if here < most:
            raise DataError(
                f"the trajectories have {here} to {most} points before {time:g}, expected as many in each: cut those "
                "with the same times together, as data.select([0]).until(time)"
            )
        start, end = self.times[0, [0, -1]].tolist()
        if not 2 <= here <= self.times.shape[1] - 2:
            raise DataError(
                f"there are {here} points before {time:g} and {self.times.shape[1] - here} from then on, expected "
                f"two or more of each: take a time well within {start:g} to {end:g}"
            )
        parts = (slice(None, here), slice(here, None))
        return tuple(  # type: ignore[return-value] - two of them
            replace(
                self, times=self.times[:, k], states=self.states[:, k],
                slopes=None if self.slopes is None else self.slopes[:, k],
            )
            for k in parts
        )  # fmt: skip

    def to(self, dtype: torch.dtype) -> "Trajectories":
        """The same with states in another kind of floats; times stay in float64."""
        slopes = None if self.slopes is None else self.slopes.to(dtype)
        return replace(self, states=self.states.to(dtype), slopes=slopes)

    def save(self, path: str | Path) -> None:
        """Write one .npz file, without pickle.

        Raises:
            SettingError: a name that ends otherwise, a folder that is not there, or floats that no array has.
        """
        require_file(path, ".npz")
        if self.states.dtype is torch.bfloat16:
            raise SettingError("the states are bfloat16, which .npz files do not hold: save data.to(torch.float32)")
        named = {"times": self.times, "states": self.states, "slopes": self.slopes}
        arrays = {name: x.numpy() for name, x in named.items() if x is not None}
        np.savez_compressed(path, entries=np.array(self.entries), **arrays)  # type: ignore[arg-type] - its stub takes names for settings

    @staticmethod
    def load(path: str | Path) -> "Trajectories":
        """What ``save`` has written."""
        arrays = read_arrays(path)
        if not {"times", "states", "entries"} <= set(arrays) <= {"times", "states", "entries", "slopes"}:
            raise DataError(f"{path} holds {', '.join(arrays)}, and no trajectories as eom.physics writes them")
        entries = tuple(map(str, np.atleast_1d(arrays.pop("entries"))))
        return Trajectories(entries=entries, **arrays)  # type: ignore[arg-type] - arrays become tensors


def tensor_of(name: str, x: Any) -> Any:
    """A tensor, an array or a list in the floats that it has: a copy, and no function of anything."""
    if x is None and name == "slopes":
        return None
    if any(np.ma.is_masked(part) for part in (x, *(x if isinstance(x, list | tuple) else ()))):
        raise DataError(f"{name} have values that are masked: cut them out, or fill them in")
    try:
        found = x.detach().clone() if isinstance(x, Tensor) else _from_numpy(np.array(x))
    except (TypeError, ValueError) as failure:
        kind = getattr(x, "dtype", None)
        came = type(x).__name__ + ("" if kind is None else f" of {kind}")
        raise DataError(
            f"{name} are a {came}, expected a tensor or an array of numbers, as by x.astype(float); of dates, the time "
            "since the first"
        ) from failure
    if not is_dense(found):
        raise DataError(f"{name} are {said(found)}, expected a dense tensor of numbers, as by to_dense()")
    if found.is_complex():
        raise DataError(f"{name} are {found.dtype}, expected real ones: take real and imaginary parts as two entries")
    return found


def _from_numpy(x: np.ndarray) -> Tensor:
    """In the machine's own order of bytes, the only one that torch has."""
    return torch.from_numpy(x.astype(x.dtype.newbyteorder("="), copy=False))


def clock(times: Any, u: Tensor, entries: tuple[str, ...] = ()) -> Tensor:
    """[b, s] times that increase, given as [s] or [b, s], of trajectories from states ``u`` [b, n]."""
    found = tensor_of("times", times)
    if found.ndim not in (1, 2):
        raise DataError(f"times have shape {list(found.shape)}, expected [s] or [{len(u)}, s]")
    return Trajectories(found, u[:, None].expand(-1, found.shape[-1], -1), entries).times


def _require_finite(data: Trajectories) -> None:
    for name, x in {"times": data.times, "states": data.states, "slopes": data.slopes}.items():
        bad = [] if x is None else (~x.isfinite()).nonzero().tolist()
        if bad:
            i, k, *entry = bad[0]
            where = f" of {data.entries[entry[0]]}" if entry else ""
            raise DataError(
                f"{len(bad)} numbers among the {name} are not finite, the first{where} in trajectory {i} at point {k}. "
                "Leave those points out, as times need not be even; or cut the trajectory there where the gap is long."
            )
