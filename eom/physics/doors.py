"""What a training is not begun with: data of another system, energies that are not what the model means."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eom.calculus.modes import require_derivatives
from eom.errors import DataError, LossNotDifferentiableError, LossNotScalarError, SettingError
from eom.physics.learned_fields import LagrangianField
from eom.physics.limits import is_whole, require_periodic, require_seed, said
from eom.physics.models import LearnedSystem
from eom.physics.systems import System
from eom.physics.trajectories import Trajectories, Window

APART = 1.8  # times, by which velocities may be from what positions do: tan(x) / x at two or three points a period
SURE, FEW = 0.9, 8  # a squared correlation of both, of so many steps or more


def accepted(model: LearnedSystem, data: Trajectories) -> Trajectories:
    """Data that are of this model, in its floats."""
    if not isinstance(model, LearnedSystem):
        raise SettingError(
            f"the model is a {type(model).__name__}, expected a LearnedSystem, such as neural_ode(size, net)"
        )
    if not isinstance(data, Trajectories):
        raise DataError(f"the data are a {type(data).__name__}, expected Trajectories(times, states)")
    model.require(data.states)
    data = data.to(model.dtype)
    require_periodic(data.states, model.grid)  # as they are rounded now, too
    return data


def require_models(models: Any) -> None:
    """Raise where they are no learned systems by name."""
    if not (isinstance(models, Mapping) and all(isinstance(name, str) for name in models)):
        raise SettingError(f"models are a {type(models).__name__}, expected them by name, as {{'my model': model}}")
    for name, model in models.items():
        if not isinstance(model, LearnedSystem):
            raise SettingError(
                f"the model {name!r} is a {type(model).__name__}, expected a LearnedSystem, such as neural_ode(size, "
                "net); the true law goes to system="
            )


def require_of(system: Any, test: Trajectories) -> None:
    """Raise where it is no system, or the states are not of it."""
    if not isinstance(system, System):
        raise SettingError(f"the system is a {type(system).__name__}, expected one such as pendulum(), or None")
    if test.size != system.size:
        raise DataError(f"test states have {test.size} entries, {system.name} has {system.size}")
    if test.entries != system.entries and set(test.entries) == set(system.entries):
        raise DataError(
            f"test states are {', '.join(test.entries)}, those of {system.name} {', '.join(system.entries)}: bring the "
            "columns into its order"
        )


def require_predicted(predicted: Any, test: Trajectories) -> None:
    """Raise where it is no motion at the times of ``test``."""
    if not isinstance(predicted, Trajectories):
        raise DataError(f"predicted is a {type(predicted).__name__}, expected Trajectories, as of model.predict")
    if not (predicted.states.shape == test.states.shape and torch.equal(predicted.times, test.times)):
        raise DataError(
            f"predicted are states {list(predicted.states.shape)} to time {float(predicted.times.max()):g}, and test "
            f"are {list(test.states.shape)} to {float(test.times.max()):g}: predict at all times of test, as by "
            "model.predict(test.states[:, 0], test.times)"
        )


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
    loss: Any = None,
    seed: int = 0,
) -> Window:
    """The windows of accepted data, and settings in their range."""
    require_derivatives()
    if not any(x.requires_grad for x in model.parameters()):
        raise SettingError(
            "the model has no parameters that require gradients, and there is nothing to learn: predict with it as it "
            "is, or set requires_grad_()"
        )
    named = {"window": window, "stride": stride, "steps": steps, "every": every, "batch": batch, "patience": patience}
    wrong = [f"{name} is {x!r}" for name, x in named.items() if x is not None and not (is_whole(x) and x > 0)]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}, expected 1 or more, as whole numbers")
    if loss is not None and not callable(loss):
        raise SettingError(f"loss is {loss!r}, expected a function of a window, such as mean_square of the model")
    require_seed(seed)
    require_longer("trajectories", data, window)
    windows = data.windows(window, stride)
    if isinstance(model.field, LagrangianField):
        require_velocities(windows)
    model.require_each(windows.u[[0, -1], [0, -1]])
    return windows


def require_velocities(windows: Window) -> None:
    """Raise where states (q, v) move in q otherwise than v says, as those with momenta do."""
    q, v = windows.u.double().chunk(2, -1)
    moved = (q.diff(dim=1) / windows.t.diff(dim=1)[..., None]).flatten(0, 1)
    said = ((v[:, 1:] + v[:, :-1]) / 2).flatten(0, 1)
    both, square = (moved * said).sum(0), said.square().sum(0)
    told = (both.square() > SURE * square * moved.square().sum(0)) & (len(said) >= FEW)  # by more than noise
    for i, share in enumerate((both / square).tolist()):
        if bool(told[i]) and not 1 / APART <= share <= APART:
            raise DataError(
                f"entry {i} changes {share:.2g} times as fast as entry {i + len(told)} says, and a Lagrangian is of "
                "positions and velocities: give states (q, dq/dt), not momenta, in the units of the times"
            )


def require_longer(what: str, data: Trajectories, window: int) -> None:
    """Raise where trajectories have no window of so many steps."""
    if data.states.shape[1] <= window:
        raise DataError(
            f"{what} have {data.states.shape[1]} points, too few for windows of {window} steps: observe longer, or "
            "take window=1"
        )


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
    if checkpoint is not None and not (isinstance(checkpoint, str | Path) and Path(checkpoint).parent.is_dir()):
        raise SettingError(f"the checkpoint is to be {checkpoint!r}, expected a file in a folder that is there")


def require_loss(found: Any) -> None:
    """Raise where a loss cannot be made small."""
    if not isinstance(found, Tensor) or found.numel() != 1 or found.is_complex():
        raise LossNotScalarError(
            f"the loss is {said(found)}, expected one real number as a tensor, as of mean_square(model, window)"
        )
    if not found.requires_grad:
        raise LossNotDifferentiableError(
            "the loss has no gradient in the model's parameters: compute it without detach(), item() and no_grad(), of "
            "parameters that require one"
        )
