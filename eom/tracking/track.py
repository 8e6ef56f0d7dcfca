"""The door of the tracker: ``eom.track``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.objective.data import Batch
from eom.objective.loss import LossFunction
from eom.objective.parameters import Groups
from eom.records import Run, open_run
from eom.tracking.helper import Helper
from eom.tracking.moment import Settings
from eom.tracking.observables import UserObservable
from eom.tracking.quantities import Quantity
from eom.tracking.ranks import check_alone, ranks_of
from eom.tracking.resume import Resume
from eom.tracking.schedule import Every
from eom.tracking.tracker import Tracker


def track(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    run: str | Path,
    *,
    every: Every = 10,
    order: int | None = 1,
    observables: Mapping[str, UserObservable] | None = None,
    groups: Groups = "tensor",
    product: str = "auto",
    bars: bool = True,
    sharpness: int = 20,
    horizon: int | None = None,
    horizons: int = 10,
    data: Any = None,
    quantities: Sequence[Quantity] = (),
    precision: torch.dtype | None = None,
    resume: Resume | None = None,
    disabled: bool = False,
) -> "Tracker | Helper | Untracked":
    """Follow a training in the user's own loop: a context manager whose ``loss`` stands for the loss function.

        with eom.track(model, optimizer, loss_fn, run="runs/first") as tracker:
            for batch in batches:
                optimizer.zero_grad()
                tracker.loss(batch).backward()
                optimizer.step()

    The training is the same, bit for bit, as without the tracker. Under ``torch.optim.SGD`` without momentum rates are
    predicted; under any other optimizer they are measured only. A model in DistributedDataParallel is followed on all
    ranks, each of which opens the tracker; the first one writes.

    Args:
        model: any module. loss_fn: (model, batch) -> one real number as a tensor, that depends on these two only: a
            weight that changes during training belongs into the batch.
        run: a new folder for the records.
        every: record every k steps, "log" (ten per decade), "10%" (of the training's time), or step -> bool.
        order: highest order predicted, 0 (gradient flow), 1 or 2; None records norms and loss only.
        observables: {name: function of {parameter name: float64 tensor} -> one number}, followed like the norms.
        groups: "tensor", "module", or {name: parameter names or indices}.
        product: route to H v: "auto" takes "double-backward", or "difference" of gradients where the self-test finds
            that wrong; "difference" is cheaper, less exact; "compiled" takes long to compile once, and is faster then.
        bars: follow the run's own gradients for a few steps after each record; predictions then carry bars.
        sharpness: records from one largest Hessian eigenvalue to the next; 0 for never.
        horizon: steps over which displacements are compared with the flows of order 0, 1 and 2; each takes several
            hundred gradients of its data, once more for every learning rate on the way, while the training waits.
        horizons: one displacement starts in the middle of every so many records.
        data: for mini-batch training, the whole data (one batch or a re-iterable) that displacements are about.
        quantities: more that is measured at records, such as ``eom.stochastic.gradient_noise()``.
        precision: of the evaluations behind predictions, such as torch.float64; the model's own by default.
        resume: a step, or a tracker's ``state_dict()``, from which to continue the run in the folder ``run``.
        disabled: follow and write nothing.

    Raises:
        EomError: a setting, model, optimizer or folder that cannot be used; at the first ``loss``, a loss that cannot.
            After the first step nothing is raised: the tracker warns, logs an event, and the training goes on.
    """
    ranks = None if disabled else ranks_of(model)
    settings = Settings(order, product, bars, sharpness, horizon, horizons, precision)
    if ranks is not None:
        check_alone(data=data, resume=resume, quantities=quantities or None)
        if not ranks.first:
            return Helper(model, optimizer, loss_fn, ranks, settings, run)
    elif disabled or _other_rank():
        return Untracked(model, loss_fn, run)
    own = observables or {}
    return Tracker(model, optimizer, loss_fn, run, every, settings, own, groups, data, resume, ranks, quantities)


class Untracked:
    """The tracker of a disabled run, and of processes that share nothing with the first: it does nothing."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction, run: str | Path):
        self._model, self._loss_fn, self._path = model, loss_fn, run

    def loss(self, batch: Batch) -> Tensor:
        return self._loss_fn(self._model, batch)

    def observe(self, batch: Batch) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    @property
    def run(self) -> Run:
        return open_run(self._path)

    def __enter__(self) -> "Untracked":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _other_rank() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank() > 0
