"""Processes of a group in the tests: what is done on each rank, and how they are started."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import eom


def together(name: str, world: int, folder: Path, lost: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """What a function of this file finds on each rank that is not lost."""
    processes = [
        subprocess.Popen([sys.executable, __file__, name, str(rank), str(world), str(folder)]) for rank in range(world)
    ]
    for process in processes:
        process.wait(timeout=120)
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world) if rank not in lost]
    assert not [one["failed"] for one in found if "failed" in one]
    return found


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    kind = torch.float64  # drawn in it, whatever the default is
    return nn.Sequential(
        nn.Linear(4, 6, dtype=kind), nn.Tanh(), nn.LayerNorm(6, dtype=kind), nn.Linear(6, 3, dtype=kind)
    )


def half_frozen(seed: int) -> nn.Module:
    """The first layer frozen, and of another seed."""
    model = network()
    model[0].load_state_dict(network(seed)[0].state_dict())  # type: ignore[index] - a Sequential
    model[0].requires_grad_(False)  # type: ignore[index]
    return model


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(24, 4, generator=generator, dtype=torch.float64), torch.randint(3, (24,), generator=generator)


def shard(rank: int, world: int) -> tuple[Tensor, Tensor]:
    """Uneven parts of the data."""
    ends = [0, 5, 24] if world == 2 else [0, 5, 17, 24]
    return data()[0][ends[rank] : ends[rank + 1]], data()[1][ends[rank] : ends[rank + 1]]


def quantities(objective: eom.Objective) -> dict[str, Tensor]:
    """Everything that an objective gives, at a point that is not the model's own."""
    theta = objective.theta() + 0.1
    v = torch.linspace(-1, 1, len(theta), dtype=torch.float64)
    flow = eom.gradient_flow(objective)
    kept = objective.expansion(theta)
    return {
        "loss": objective.loss(theta),
        "gradient": objective.gradient(theta),
        "H v": objective.hvp(theta, v),
        "H g": objective.gradient_and_hvp(theta)[1],
        "kept value": kept.value,
        "kept H v": kept.hvp(v),
        "T(v, v)": objective.third(theta, v, v),
        "order 2 by terms": eom.corrected(flow, eom.Euler(), 0.1, 2)(0.0, theta),
        "order 3 by the log map": eom.corrected(flow, eom.Euler(), 0.1, 3, method="log-map")(0.0, theta),
        "sharpness": eom.sharpness(objective, 3, theta=theta, rtol=1e-10).eigenvalues,
        "flow": eom.flow(flow, theta, 0.5, rtol=1e-9, atol=1e-12),
    }


def agree(rank: int, world: int, folder: Path) -> dict[str, float]:
    """Relative differences between the group and one process, the largest over one batch and several."""
    alone = quantities(eom.Objective(network(), cross_entropy, data(), decay=0.01))
    x, y = shard(rank, world)
    parts = [(x[:2], y[:2]), (x[2:], y[2:])] if rank == 1 else [(x, y)]
    found: dict[str, float] = {}
    for own in ((x, y), parts):
        for product in ("auto", "difference"):
            group = eom.Objective(
                network(), cross_entropy, own, decay=0.01, process_group=dist.group.WORLD, product=product
            )
            if product == "difference":
                found["H v by differences"] = error(group.hvp(group.theta(), group.theta()), own_hvp())
                continue
            for name, value in quantities(group).items():
                found[name] = max(found.get(name, 0.0), error(value, alone[name]))
    return found


def own_hvp() -> Tensor:
    alone = eom.Objective(network(), cross_entropy, data(), decay=0.01, product="double-backward")
    return alone.hvp(alone.theta(), alone.theta())


def error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def refused(rank: int, world: int, folder: Path) -> dict[str, str]:
    """Messages of what is refused, on this rank."""
    own = shard(rank, world)
    group = eom.Objective(network(), cross_entropy, own, process_group=dist.group.WORLD)
    normal = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    here, there = (group.expansion(group.theta() + shift) for shift in (0.0, 0.1))
    attempts: dict[str, Callable[[], object]] = {
        "another start": lambda: eom.Objective(network(rank), cross_entropy, own, process_group=dist.group.WORLD),
        "another point": lambda: group.gradient(group.theta() + rank),
        "another order of the same": lambda: group.gradient(group.theta() if rank else group.theta().flip(0)),
        "nearly the same point": lambda: group.gradient(group.theta() * (1 + 1e-8 * rank)),
        "another method": lambda: group.loss(group.theta()) if rank else group.gradient(group.theta()),
        "another precision": lambda: group.gradient(group.theta().to(torch.float32 if rank else torch.float64)),
        "another decay": lambda: eom.Objective(
            network(), cross_entropy, own, 0.1 * rank, process_group=dist.group.WORLD
        ),
        "another direction": lambda: group.hvp(group.theta(), group.theta() * (rank + 1)),
        "another expansion": lambda: (here if rank else there).hvp(group.theta()),
        "other eigenvalues": lambda: eom.sharpness(group, 1 + rank),
        "an empty part": lambda: eom.Objective(
            network(), cross_entropy, [] if rank else own, process_group=dist.group.WORLD
        ),
        "other frozen weights": lambda: eom.Objective(
            half_frozen(rank), cross_entropy, own, process_group=dist.group.WORLD
        ),
        "batch statistics": lambda: eom.Objective(normal, cross_entropy, own, process_group=dist.group.WORLD),
        "compiled": lambda: eom.Objective(
            network(), cross_entropy, own, process_group=dist.group.WORLD, product="compiled"
        ),
        "no group": lambda: eom.Objective(network(), cross_entropy, own, process_group=3),
    }
    return {name: message(attempt) for name, attempt in attempts.items()}


def message(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except eom.errors.EomError as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return ""


def dies(rank: int, world: int, folder: Path) -> dict[str, str]:
    """Rank 1 ends without a word between two evaluations."""
    group = eom.Objective(network(), cross_entropy, shard(rank, world), process_group=dist.group.WORLD)
    group.gradient(group.theta())
    if rank == 1:
        os._exit(9)
    return {"gradient": message(lambda: group.gradient(group.theta()))}


def failing(rank: int, world: int, folder: Path) -> dict[str, object]:
    """The loss raises on rank 1 once, where it is caught, and all go on."""
    calls = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(1)
        if rank == 1 and len(calls) == 1:
            raise ArithmeticError("mine")
        return cross_entropy(model, batch)

    group = eom.Objective(network(), loss, shard(rank, world), process_group=dist.group.WORLD)
    found: dict[str, object] = {}
    try:
        group.gradient(group.theta())
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found | {"after": float(group.gradient(group.theta()).norm())}


def tested(rank: int, world: int, folder: Path) -> dict[str, object]:
    """The derivatives are wrong on the data of the last rank only; all take the same route."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[override]
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):  # type: ignore[override]
            return 3 * ctx.saved_tensors[0] ** 2 * g

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        power: Any = Cube.apply if rank == world - 1 else lambda x: x**3
        return cross_entropy(model, batch) + power(model(batch[0])).mean()

    group = eom.Objective(network(), loss_fn, shard(rank, world), process_group=dist.group.WORLD)
    check = group.check()
    return {"product": check.product, "hvp": float(group.hvp(group.theta(), group.theta()).norm())}


def trained(rank: int, world: int, folder: Path, tracked: bool = True) -> list[float]:
    """Parameters after a training in DistributedDataParallel, with and without the tracker."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    batch = shard(rank, world)
    settings: dict[str, Any] = {"every": 3, "sharpness": 2, "horizon": 4, "horizons": 2, "disabled": not tracked}
    with eom.track(model, optimizer, cross_entropy, folder / "run", **settings) as tracker:
        for _ in range(20):
            optimizer.zero_grad()
            tracker.loss(batch).backward()
            optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).tolist()


def tracked(rank: int, world: int, folder: Path) -> dict[str, object]:
    return {"with": trained(rank, world, folder), "without": trained(rank, world, folder, tracked=False)}


def alone(world: int, folder: Path) -> eom.Run:
    """The same training in one process: what the ranks descend is the mean of their losses, each as heavy."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    batch = [x for rank in range(world) for x in shard(rank, world)]

    def mean(model: nn.Module, batch: list[Tensor]) -> Tensor:
        return sum(cross_entropy(model, pair) for pair in zip(batch[::2], batch[1::2], strict=True)) / world  # type: ignore[return-value]

    settings: dict[str, Any] = {"every": 3, "sharpness": 2, "horizon": 4, "horizons": 2}
    with eom.track(model, optimizer, mean, folder / "alone", **settings) as tracker:
        for _ in range(20):
            optimizer.zero_grad()
            tracker.loss(batch).backward()
            optimizer.step()
    return tracker.run


def dies_in_training(rank: int, world: int, folder: Path) -> dict[str, str]:
    """Rank 1 ends without a word in the middle of a tracked training."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = shard(rank, world)
    try:
        with eom.track(model, optimizer, cross_entropy, folder / "run", every=3) as tracker:
            for step in range(60):
                if rank == 1 and step == 40:
                    os._exit(9)
                optimizer.zero_grad()
                tracker.loss(batch).backward()
                optimizer.step()
    except RuntimeError as error:
        return {"error": str(error), "notes": " ".join(error.__notes__)}
    return {"error": ""}


def fails_in_training(rank: int, world: int, folder: Path) -> dict[str, Any]:
    """The last batches of rank 1 cannot be remembered; the parameters with the tracker, and without."""

    class Strange(tuple):
        """A batch that cannot be taken apart any more."""

        def __iter__(self):
            raise ValueError("taken apart")

    found = {}
    for name in ("with", "without"):
        model = DistributedDataParallel(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = shard(rank, world)
        with eom.track(model, optimizer, cross_entropy, folder / "run", every=3, disabled=name == "without") as tracker:
            for step in range(30):
                optimizer.zero_grad()
                tracker.loss(Strange(batch) if rank == 1 and step > 20 else batch).backward()
                optimizer.step()
        found[name] = nn.utils.parameters_to_vector(model.parameters()).tolist()
    return found


if __name__ == "__main__":
    name, rank, world, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        found = globals()[name](rank, world, folder)
    except Exception:
        found = {"failed": traceback.format_exc()}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # a lost group cannot be closed in order
