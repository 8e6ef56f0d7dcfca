"""Small trainings, with and without the tracker, and short ways to read what they recorded."""

import copy
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from problems import DTYPE, cross_entropy, tanh_mlp
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import eom
from eom.errors import TrackingWarning

Batch = Any
LR = 0.05


class Bowl(nn.Module):
    """Its loss is theta A theta / 2: one step is theta <- (1 - lr A) theta."""

    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = nn.Parameter(theta.clone())


def bowl(rates: list[float], theta: list[float]) -> tuple[Bowl, Tensor]:
    """A diagonal bowl and the batch that holds its curvatures."""
    return Bowl(torch.tensor(theta, dtype=DTYPE)), torch.tensor([rates], dtype=DTYPE)


def bowl_loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (batch[0] * model.theta.square()).sum() / 2  # type: ignore[operator]


def steps(optimizer: Optimizer, loss: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> None:
    """The loop of a user."""
    for batch in batches:
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()


def train(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    body: Callable[[int, Any], object],
    *,
    count: int,
    loss_fn=cross_entropy,
    **settings: Any,
) -> eom.Run:
    """A tracked training whose loop calls ``body(step, tracker)``."""
    settings = {"every": 5} | settings
    with eom.track(model, optimizer, loss_fn, folder, **settings) as tracker:
        for step in range(count):
            body(step, tracker)
    return tracker.run


def tracked(
    folder: Path, *, count: int = 20, lr: float = LR, make=tanh_mlp, decay: float = 0.01, **settings: Any
) -> eom.Run:
    """The run of a full-batch training by SGD, tracked."""
    model, batch = make()
    optimizer = SGD(model.parameters(), lr=lr, weight_decay=decay)

    def body(step: int, tracker: Any) -> None:
        steps(optimizer, tracker.loss, [batch])

    return train(folder, model, optimizer, body, count=count, **settings)


def at(run: eom.Run, step: int, quantity: str, source: str = "measured", group: str = "all") -> float:
    """One recorded value."""
    table = run.table()
    found = table[
        (table.step == step) & (table.quantity == quantity) & (table.source == source) & (table.group == group)
    ]
    assert len(found) == 1, f"{len(found)} rows of {quantity} {source} {group} at step {step}"
    return float(found.value.iloc[0])


def bar(run: eom.Run, step: int, quantity: str, source: str = "measured", group: str = "all") -> float:
    """The bar of one recorded value."""
    t = run.table()
    found = t[(t.step == step) & (t.quantity == quantity) & (t.source == source) & (t.group == group)]
    return float(found.bar.iloc[0])


def time_of(run: eom.Run, step: int) -> float:
    """The time of a recorded step, one for all of its rows."""
    table = run.table()
    (time,) = set(table[table.step == step].time)
    return time


def sources(run: eom.Run, quantity: str = "norm_squared_rate", step: int | None = None) -> set[str]:
    """Where the values of a quantity come from."""
    table = run.table()
    chosen = table[table.quantity == quantity]
    return set(chosen["source"] if step is None else chosen.loc[chosen["step"] == step, "source"])


def kinds(run: eom.Run) -> set[str]:
    """Kinds of the events."""
    return set(run.events().kind)


def messages(run: eom.Run, kind: str) -> list[str]:
    events: pd.DataFrame = run.events()
    return list(events.loc[events.kind == kind, "message"])


class State(NamedTuple):
    """All that a training leaves behind."""

    tensors: dict[str, Tensor]
    gradients: list[Tensor | None]
    modes: list[bool]
    generator: Tensor
    optimizer: Any


def state_of(model: nn.Module, optimizer: Optimizer) -> State:
    return State(
        {k: v.clone() for k, v in model.state_dict().items()},
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [m.training for m in model.modules()],
        torch.get_rng_state(),
        copy.deepcopy(optimizer.state_dict()),
    )


def assert_same(a: State, b: State) -> None:
    """Bit for bit."""
    assert a.modes == b.modes
    assert torch.equal(a.generator, b.generator)
    assert a.tensors.keys() == b.tensors.keys()
    assert all(same_bits(a.tensors[k], b.tensors[k]) for k in a.tensors)
    assert all(
        x is y is None or (x is not None and y is not None and same_bits(x, y))
        for x, y in zip(a.gradients, b.gradients, strict=True)
    )
    assert str(a.optimizer) == str(b.optimizer)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, with NaN where the other has NaN."""
    return a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def dense_hessian(model: nn.Module, loss_fn, batch: Batch, decay: float = 0.0) -> Tensor:
    """[n, n] of the loss with its penalty."""
    objective = eom.Objective(model, loss_fn, batch, decay)
    n = objective.theta().numel()
    return torch.stack([objective.hvp(objective.theta(), e) for e in torch.eye(n, dtype=DTYPE)])


Body = Callable[[int, nn.Module, Optimizer, Callable[[Any], Tensor], Any], None]
COUNT = 40


def usual(step: int, model: nn.Module, optimizer: Optimizer, loss: Callable[[Any], Tensor], batch: Any) -> None:
    steps(optimizer, loss, [batch])


def compare(
    tmp_path: Path, body: Body, loss_fn=cross_entropy, make=tanh_mlp, **settings: Any
) -> tuple[eom.Run, list[str]]:
    """The run, and the warnings, of a training that ends with the same bits when it is not tracked."""
    states, said = [], []
    for follow in (False, True):
        torch.manual_seed(3)
        model, batch = make()
        optimizer = SGD(model.parameters(), lr=LR, weight_decay=0.01)
        chosen = {"every": 4, "disabled": not follow} | (settings if follow else {})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with eom.track(model, optimizer, loss_fn, tmp_path / "run", **chosen) as tracker:
                for step in range(COUNT):
                    body(step, model, optimizer, tracker.loss, batch)
        said = [str(w.message) for w in caught if issubclass(w.category, TrackingWarning)]
        states.append(state_of(model, optimizer))
    assert_same(*states)
    return eom.open_run(tmp_path / "run"), said


def assert_said(run: eom.Run, said: list[str], kind: str, message: str) -> None:
    """One warning of this kind, and an event."""
    assert any(message in m for m in messages(run, kind)), run.events().to_string()
    assert sum(message in m for m in said) == 1, said
    assert len(said) == len(set(said))
