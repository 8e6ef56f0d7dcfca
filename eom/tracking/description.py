"""What a manifest says about the run: model, data, optimizer, machine."""

import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from eom.objective import Objective
from eom.objective.data import Batch, digest, length, tensors
from eom.objective.parameters import Groups, layout_of, trainable

PLAIN = (int, float, str, bool, type(None))


def now() -> str:
    """The present time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_start(
    optimizer: Optimizer, settings: dict[str, Any], units: dict[str, str], groups: Groups
) -> dict[str, Any]:
    """What is known before the first batch."""
    packages = ("torch", "numpy", "scipy", "pandas")
    return {
        "eom": version("eom"),
        "created": now(),
        "command": list(sys.argv),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
        "seed": torch.initial_seed(),
        "settings": settings | describe_optimizer(optimizer),
        "units": UNITS | units,
        "group_kind": groups if isinstance(groups, str) else "user",
        "predictions": {"withheld": None},
    }


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Name and settings; the settings of one parameter group as numbers, of several as lists."""
    groups = [{k: _plain(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    settings = {k: groups[0][k] if len(groups) == 1 else [g.get(k) for g in groups] for k in groups[0]}
    return {
        "optimizer": type(optimizer).__name__,
        "optimizer_settings": settings,
        "lr": [g.get("lr") for g in groups],
        "weight_decay": [g.get("weight_decay", 0.0) for g in groups],
        "reference_lr": max(g["lr"] for g in groups),
    }


def describe_objective(objective: Objective, batch: Batch) -> dict[str, Any]:
    """Model, groups and data as they are before the first step, with their hashes."""
    theta = objective.theta()
    own = dict(objective.model.named_parameters())
    modules = dict(objective.model.named_modules())
    names = objective.layout.names
    layers = {k: _layer(modules, k) for k in names} | {
        k: type(m).__name__ for k, m in modules.items() if k in objective.groups
    }
    return {
        "device": str(theta.device),
        "dtype": str(theta.dtype).removeprefix("torch."),
        "parameters": theta.numel(),
        "groups": list(objective.groups),
        "layers": {g: layers[g] for g in objective.groups if g in layers},
        "weights": [g for g in objective.groups if g in own and own[g].ndim >= 2],
        "model": str(objective.model),
        "data": {"samples": length(batch), "batches": 1},
        "sha256": fingerprint(objective.model, batch),
    }


def fingerprint(model: nn.Module, batch: Batch) -> dict[str, str]:
    """SHA-256 of the trainable parameters, of frozen ones and buffers, of the model's text form, and of a batch."""
    constants = [*(p for p in model.parameters() if not p.requires_grad), *model.buffers()]
    return {
        "constants": digest(constants),
        "parameters": digest([layout_of(model).flatten(trainable(model).values())]),
        "model": digest([torch.frombuffer(bytearray(str(model).encode()), dtype=torch.uint8)]),
        "batch": digest(tensors(batch)),
    }


UNITS = {
    "norm_squared": "weight²",
    "norm": "weight",
    "norm_squared_rate": "weight² per unit time",
    "norm_rate": "weight per unit time",
    "norm_squared_displacement": "weight²",
    "norm_displacement": "weight",
    "position_error": "weight",
    "loss": "loss",
    "penalty": "loss",
    "gradient_norm": "loss per weight",
    "update_mismatch": "share of the step",
    "step_error": "share of the step",
    "sharpness": "loss per weight²",
    "lr": "time per step",
}


def own_units(observables: Iterable[str]) -> dict[str, str]:
    """Of the user's observables, whose unit is not known."""
    ends = {"": "own unit", "_rate": "own unit per unit time", "_displacement": "own unit"}
    return {name + end: unit for name in observables for end, unit in ends.items()}


def _layer(modules: dict[str, nn.Module], name: str) -> str:
    owner, _, tensor = name.rpartition(".")
    return f"{type(modules[owner]).__name__}.{tensor}"


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    return value if isinstance(value, PLAIN) else str(value)
