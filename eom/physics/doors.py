"""What a training is not begun with: data of another system, energies and grids that are not what the model means."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eom.errors import DataError, SettingError
from eom.physics.models import LearnedSystem
from eom.physics.trajectories import Trajectories, Window

SEAM = 4.0  # times the largest jump between neighbours inside, beyond which a grid has an edge


def require_fit(
    model: LearnedSystem,
    data: Trajectories,
    window: int,
    stride: int,
    *,
    steps: int,
    every: int,
    batch: int | None,
    patience: int | None,
) -> Window:
    """The windows of data that are of this model, and settings in their range."""
    named = {"window": window, "stride": stride, "steps": steps, "every": every, "batch": batch, "patience": patience}
    wrong = [f"{name} is {x!r}" for name, x in named.items() if x is not None and (type(x) is not int or x < 1)]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}, expected 1 or more, as whole numbers")
    model.require(data.states)
    if data.states.shape[1] <= window:
        raise DataError(
            f"trajectories have {data.states.shape[1]} points, too few for windows of {window} steps: observe longer, "
            "or take window=1"
        )
    windows = data.windows(window, stride)
    energy = getattr(model.field, "energy", None)
    if energy is not None:
        _require_scalar(energy, windows.u[:2, 0])
        grid = getattr(energy, "grid", None)
        if grid is not None:
            require_periodic(data.states, grid)
    return windows


def require_optimizer(model: LearnedSystem, optimizer: Any, checkpoint: str | Path | None) -> None:
    """Raise where parameters would not be trained, or what is trained could not be saved."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SettingError(f"optimizer is {optimizer!r}, expected one of torch's, made for the model's parameters")
    trained = {id(x) for group in optimizer.param_groups for x in group["params"]}
    left = [name for name, x in model.named_parameters() if x.requires_grad and id(x) not in trained]
    if left:
        raise SettingError(
            f"the optimizer does not have {len(left)} parameters of the model, such as {left[0]}: make it after the "
            "model and its rule, or set requires_grad_(False) on what is to stay as it is"
        )
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise SettingError(f"the checkpoint is to be {checkpoint}, and there is no such folder: make it first")


def _require_scalar(energy: Any, u: Tensor) -> None:
    with torch.no_grad():
        came = energy(u)
    if not isinstance(came, Tensor) or came.shape not in ((len(u),), (len(u), 1)):
        shape = list(came.shape) if isinstance(came, Tensor) else type(came).__name__
        raise DataError(
            f"the energy of {len(u)} states has shape {shape}, expected [{len(u)}]: a number for each state"
        )
    with torch.no_grad():
        alone = energy(u[:1].expand_as(u))
    if not torch.allclose(alone.flatten()[0], came.flatten()[0], rtol=1e-3, atol=1e-5):
        raise DataError(
            f"the energy of one state is {float(came.flatten()[0]):.6g} beside a second one and "
            f"{float(alone.flatten()[0]):.6g} beside itself: samples must not see each other, as in BatchNorm"
        )


def require_periodic(states: Tensor, grid: tuple[int, ...]) -> None:
    """Raise where the last value of a grid does not lead on to the first."""
    u = states.reshape(-1, *grid)
    for axis in range(1, u.ndim):
        inside = float(u.diff(dim=axis).abs().max())
        first, last = u.select(axis, 0), u.select(axis, -1)
        if torch.equal(first, last) and inside > 0:
            raise DataError(
                f"the first and last values along axis {axis - 1} of the grid are the same throughout: on a periodic "
                "grid that point comes once; leave the last one out"
            )
        if float((first - last).abs().max()) > SEAM * inside:
            raise DataError(
                f"values jump by {float((first - last).abs().max()):.3g} from the last to the first point along axis "
                f"{axis - 1} of the grid, and by {inside:.3g} at most between neighbours: it is not periodic, and the "
                "model assumes it is. Take a domain that is, or a plain network for the energy"
            )
