"""Training of a learned system: windows of trajectories, early stopping, checkpoints without pickle."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor
from torch.optim import LBFGS, Adam, Optimizer

from eom.errors import DataError, DiscreteError, LossNotFiniteError, SettingError, StepError
from eom.physics.checkpoint import Kept, about, load, save
from eom.physics.doors import accepted, require_fit, require_longer, require_loss, require_optimizer
from eom.physics.models import LearnedSystem, as_predicting, mean_square
from eom.physics.rules import given_up
from eom.physics.trajectories import Trajectories, Window

Loss = Callable[[Window], Tensor]
FEW = 8  # windows, spread over the data


class Fitted(NamedTuple):
    """``history``: step, training loss and validation loss after it, from the start on; ``best``: the step kept."""

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
    stride: int = 1,
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
        steps: in all, those that a checkpoint has made among them.
        optimizer: of the model's parameters; by default Adam with learning rate 1e-3. LBFGS wants batch=None.
        batch: windows in a step, drawn anew for each; all of them by default.
        window: steps of one window, each of which begins ``stride`` points after the last. Rules of single steps look
            at each of them alone; ``Shooting(stepper)`` goes through them all from the first state.
        validation: whose mean square is measured every so many steps, in the mode of ``eval()``; the best parameters
            are those at the end, be they those at the start.
        patience: measurements without a better one, after which training stops; one that has stopped so goes on from
            its checkpoint with more patience, not with more steps.
        checkpoint: a file, written at every measurement, from which training goes on if it is
            there, with its optimizer's rate; of the same model, rule, loss and data. What torch draws, as for
            Dropout, is not kept in it.
        seed: of the batches that are drawn.

    Raises:
        DataError: data that are not of this model. SettingError: settings out of their range.
        LossNotFiniteError, StepError, DiscreteError: the loss is not finite, or a step of the motion fails; the model
        then has its best parameters so far. LossNotScalarError, LossNotDifferentiableError: a loss that is not one
        number, or has no gradient.
    """
    data = accepted(model, data)
    windows = require_fit(
        model, data, window, stride,
        steps=steps, every=every, batch=batch, patience=patience, loss=loss, seed=seed,
    )  # fmt: skip
    if patience is not None and validation is None:
        raise SettingError("patience is measured on validation=Trajectories, and none were given")
    unseen = None
    if validation is not None:
        validation = accepted(model, validation)
        require_longer("trajectories for validation", validation, window)
        unseen = validation.windows(window, stride)
    optimizer = optimizer or Adam(model.parameters(), 1e-3)
    require_optimizer(model, optimizer, checkpoint)
    squares: Loss = partial(mean_square, model)
    measure = loss or squares
    draw = torch.Generator().manual_seed(int(seed))
    few = windows.rows(torch.linspace(0, len(windows.u) - 1, min(FEW, len(windows.u))).long())
    _after(model, squares, few)  # what the rule refuses it does before anything is changed

    def losses() -> tuple[float, float]:
        """By which trainings of the same parameters are told apart."""
        return _trained(model, measure, few, math.nan), validated()

    def validated() -> float:
        with as_predicting(model):
            return math.nan if unseen is None else _after(model, squares, unseen)

    of, start = about(model, windows), validated()
    if checkpoint and Path(checkpoint).exists():
        kept = load(checkpoint, model, optimizer, draw, of, losses)
    else:
        kept = Kept.of(model, start)
    if patience is not None and kept.waited >= patience:  # it was at its end
        steps = kept.step
    with Progress(disable=not progress) as bar:
        task = bar.add_task("loss", total=steps, completed=kept.step)
        for step in range(kept.step, steps):
            chosen = windows if batch is None or batch >= len(windows.u) else windows.rows(
                torch.randint(len(windows.u), (batch,), generator=draw)
            )  # fmt: skip
            measured = step % every == every - 1 or step == steps - 1
            try:
                value = after = seen = advance(optimizer, measure, chosen)
                if measured:
                    after = _trained(model, measure, chosen, value)
                    seen = _after(model, squares, chosen) if unseen is None else validated()
                if not all(map(math.isfinite, (value, after, seen))):
                    raise LossNotFiniteError(f"the loss is {value}, and {after} (mean square {seen}) after the step")
            except (LossNotFiniteError, StepError, DiscreteError, DataError) as failure:
                model.load_state_dict(kept.parameters)
                raise type(failure)(
                    f"at step {step}, {failure}. The model has its parameters of step {kept.best} again: take a "
                    "smaller learning rate, or shorter windows"
                ) from failure
            if step == 0:
                kept = kept._replace(history=[(0, value, start)])
            bar.update(task, completed=step + 1)
            if measured:
                kept = kept.after(step + 1, after, None if unseen is None else seen, model)
                bar.update(task, description=f"loss {after:.3g}")
                if checkpoint:
                    save(checkpoint, model, optimizer, draw, of, kept, _trained(model, measure, few, math.nan))
                if patience is not None and kept.waited >= patience:
                    break
    model.load_state_dict(kept.parameters)
    return Fitted(pd.DataFrame(kept.history, columns=["step", "loss", "validation"]), kept.best)


def advance(optimizer: Optimizer, loss: Loss, window: Window) -> float:
    """The loss before one step of the optimizer."""

    def value() -> Tensor:
        optimizer.zero_grad()
        found = loss(window)
        require_loss(found)
        try:
            found.backward()
        except AssertionError as failure:
            why = given_up(failure)
            raise StepError(f"the adjoint equation was given up: {why}; or take adjoint=False") from failure
        return found

    if isinstance(optimizer, LBFGS):  # which asks several times
        return float(optimizer.step(value).detach())  # type: ignore[arg-type] - its closure may give a tensor
    found = value()
    optimizer.step()
    return float(found.detach())


def _after(model: LearnedSystem, loss: Loss, window: Window) -> float:
    """The loss of the present parameters; what it draws at random is the same each time."""
    devices = {x.device for x in model.parameters() if x.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices):
        for draw in (torch.default_generator, *(torch.cuda.default_generators[x.index] for x in devices)):
            draw.manual_seed(0)
        return float(loss(window))


def _trained(model: LearnedSystem, loss: Loss, window: Window, otherwise: float) -> float:
    """The same, or ``otherwise`` of a loss that takes gradients itself."""
    try:
        return _after(model, loss, window)
    except RuntimeError:
        return otherwise
