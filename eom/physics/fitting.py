"""Training of a learned system: windows of trajectories, early stopping, checkpoints without pickle."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor
from torch.optim import LBFGS, Adam, Optimizer

from eom.errors import LossNotFiniteError, SettingError
from eom.physics.checkpoint import Kept, load, save
from eom.physics.doors import require_fit
from eom.physics.models import LearnedSystem, mean_square
from eom.physics.trajectories import Trajectories, Window

Loss = Callable[[Window], Tensor]


class Fitted(NamedTuple):
    """``history``: step, training loss, and validation loss where there is one; the step whose parameters were kept."""

    history: pd.DataFrame
    best: int


def fit(
    model: LearnedSystem,
    data: Trajectories,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    steps: int = 2000,
    batch: int | None = None,
    window: int = 1,
    validation: Trajectories | None = None,
    patience: int | None = None,
    every: int = 100,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    seed: int = 0,
) -> Fitted:
    """Make the residuals of the model's rule small on windows of the data; the model is changed in place.

    Args:
        loss: window -> one number; by default ``mean_square`` of the model. A tracker's ``loss`` fits in.
        optimizer: of the model's parameters; by default Adam with learning rate 1e-3. LBFGS is given all windows.
        batch: windows in a step, drawn anew for each; all of them by default. window: steps of one window.
        validation: whose loss is measured every so many steps; the best parameters are those at the end.
        patience: measurements without a better one, after which training stops.
        checkpoint: a file, written at every measurement, from which training goes on if it is there.

    Raises:
        DataError: data that are not of this model. SettingError: settings out of their range.
        LossNotFiniteError: the loss is not finite; the model then has its best parameters so far.
    """
    data = data.to(next(model.parameters()).dtype)
    windows = require_fit(model, data, window, steps=steps, every=every, batch=batch, patience=patience)
    if patience is not None and validation is None:
        raise SettingError("patience is measured on validation=Trajectories, and none were given")
    unseen = None if validation is None else validation.to(data.states.dtype).windows(window)
    if unseen is not None:
        model.require(unseen.u)
    optimizer = optimizer or Adam(model.parameters(), 1e-3)
    measure: Loss = loss or (lambda w: mean_square(model, w))
    draw = torch.Generator().manual_seed(seed)
    kept = load(checkpoint, model, optimizer, draw) if checkpoint and Path(checkpoint).exists() else Kept.of(model)
    with Progress(disable=not progress) as bar:
        task = bar.add_task("loss", total=steps, completed=kept.step)
        for step in range(kept.step, steps):
            chosen = windows if batch is None or batch >= len(windows.u) else windows.rows(
                torch.randint(len(windows.u), (batch,), generator=draw)
            )  # fmt: skip
            value = advance(optimizer, measure, chosen)
            if not math.isfinite(value):
                model.load_state_dict(kept.parameters)
                raise LossNotFiniteError(
                    f"the loss is {value} at step {step}: the model has its parameters of step {kept.best} again. Take "
                    "a smaller learning rate, or shorter windows"
                )
            if step % every == every - 1 or step == steps - 1:
                kept = kept.after(step + 1, value, _unseen(model, unseen), model)
                bar.update(task, completed=step + 1, description=f"loss {value:.3g}")
                if checkpoint:
                    save(checkpoint, model, optimizer, draw, kept)
                if patience is not None and kept.waited >= patience:
                    break
    model.load_state_dict(kept.parameters)
    return Fitted(pd.DataFrame(kept.history, columns=["step", "loss", "validation"]), kept.best)


def advance(optimizer: Optimizer, loss: Loss, window: Window) -> float:
    """The loss before one step of the optimizer."""

    def value() -> Tensor:
        optimizer.zero_grad()
        found = loss(window)
        found.backward()
        return found

    if isinstance(optimizer, LBFGS):  # which asks several times
        return float(optimizer.step(value).detach())  # type: ignore[arg-type, union-attr]
    found = value()
    optimizer.step()
    return float(found.detach())


def _unseen(model: LearnedSystem, window: Window | None) -> float | None:
    if window is None:
        return None
    with torch.no_grad():
        return float(mean_square(model, window))
