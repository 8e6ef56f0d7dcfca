"""Runs with known numbers: what each source gets wrong is put in by hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eom.records import Row, Run, RunWriter, open_run

LAYERS = ["stem.weight", "stem.bias", "block.0.weight", "block.1.weight", "neck.weight", "head.weight"]
WEIGHTS = [name for name in LAYERS if name.endswith("weight")]
LR, EVERY, HORIZON, STEPS = 0.1, 10, 20, 600
ERRORS = {"order-0": 2e-2, "order-1": 1e-4, "order-2": 5e-7}  # of a rate or displacement, relative to it
RESOLUTION = 1e-9  # bar of a measured rate, relative to it
RADIUS, STABILITY = 200, 400  # steps at which lr x sharpness reaches 1 and 2


def rate(place: int, step: int) -> float:
    """d|w|^2/dt of the layer at ``place``: the larger, the earlier the layer."""
    return -(0.5 ** float(place)) * np.exp(-step / 400)


def wobble(place: int, step: int) -> float:
    """Between 0.5 and 1: the share of its full error that a prediction makes here."""
    return float(0.75 + 0.25 * np.cos(0.7 * step + place))


def blow_up(step: int) -> float:
    """By how much errors and bars of every order above 0 grow beyond the edge of stability."""
    return float(np.exp(np.clip((step - STABILITY) / 10, 0, 8)))


def rows_at(step: int, layers: list[str]) -> Iterator[Row]:
    """The rows of one record."""
    time = LR * step
    whole = {"loss": 2.3 * np.exp(-step / 150), "lr": LR, "gradient_norm": np.exp(-step / 300)}
    whole |= {"penalty": 0.01, "update_mismatch": 2e-16}
    for quantity, value in whole.items():
        yield Row(step, time, "all", quantity, "measured", float(value))
    if step % (5 * EVERY) == 0:
        yield Row(step, time, "all", "sharpness", "measured", step / (RADIUS * LR), 1e-6)
    for place, group in enumerate([*layers, "all"]):
        slope = rate(place, step) if group != "all" else sum(rate(p, step) for p in range(len(layers)))
        yield Row(step, time, group, "norm_squared", "measured", 10.0 - place)
        quantities = {"norm_squared_rate": slope, "norm_rate": slope / 6, "norm_squared_displacement": slope / 2}
        for quantity, value in quantities.items():
            yield Row(step, time, group, quantity, "measured", value, RESOLUTION * abs(value))
            for source, relative in ERRORS.items():
                if source == "order-2" and "rate" in quantity:
                    continue
                grown = relative if source == "order-0" else relative * blow_up(step)
                full = grown * abs(value)
                yield Row(step, time, group, quantity, source, value + full * wobble(place, step), full)
        for source, relative in ERRORS.items():
            far = relative * abs(slope)
            yield Row(step, time, group, "position_error", source, far, far)


def manifest(layers: list[str], **changes) -> dict:
    """What a tracker writes about such a run."""
    return {
        "eom": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "command": ["train.py", "--lr", "0.1"],
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "machine": {"platform": "Linux", "threads": 2},
        "device": "cpu",
        "dtype": "float64",
        "seed": 0,
        "parameters": 12345,
        "groups": [*layers, "all"],
        "group_kind": "tensor",
        "layers": dict.fromkeys(layers, "Conv2d.weight"),
        "weights": [name for name in layers if not name.endswith("bias")],
        "model": "Sequential(\n  (0): Conv2d(1, 8)\n)",
        "data": {"samples": 1797, "batches": 1},
        "sha256": {"parameters": "ab" * 32, "model": "cd" * 32, "batch": "ef" * 32},
        "settings": {
            "every": EVERY, "order": 1, "terms": 5, "horizon": HORIZON, "bars": True,
            "product": "double-backward", "lr": [LR], "weight_decay": [0.01], "reference_lr": LR,
            "optimizer": "SGD", "optimizer_settings": {"lr": LR, "momentum": 0.0, "nesterov": False},
        },
        "units": {"norm_squared_rate": "weight² per unit time", "norm_squared_displacement": "weight²"},
        "predictions": {"withheld": None},
        "self_test": [
            {"check": "H v against differences", "value": 3e-9, "limit": 1e-5, "verdict": "passed", "remedy": ""},
            {"check": "symmetry of H", "value": 2e-15, "limit": 1e-8, "verdict": "passed", "remedy": ""},
        ],
    }  | changes  # fmt: skip


def synthetic_run(path: Path, layers: list[str] = LAYERS, steps: int = STEPS, **changes) -> Run:
    """A run of ``layers`` over ``steps``, its sharpness growing through 1 and 2; ``changes`` are manifest entries."""
    with RunWriter.create(path, manifest(layers, **changes)) as writer:
        for step in range(0, steps, EVERY):
            writer.append(rows_at(step, layers))
        writer.event(250, 25.0, "skipped_step", "the optimizer's step was skipped by the gradient scaler")
        writer.update(finished="2026-01-01T00:01:00+00:00", steps=steps, records=len(range(0, steps, EVERY)))
    return open_run(path)
