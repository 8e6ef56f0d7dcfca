"""Runs whose errors follow known powers of the learning rate."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from synthetic import manifest

from eom.records import Row, Run, RunWriter, open_run

LAYERS = ["a.weight", "b.weight"]
SHARPNESS = 10.0  # of every planted run


def planted(
    path: Path,
    lr: float,
    *,
    steps: int = 100,
    every: int = 10,
    schedule: Callable[[int], float] | None = None,
    end: str | None = None,
    decay: float = 0.0,
    orders: int = 2,
    reference: str = "measured",
    last: str | None = None,
    blown: bool = False,
    sharpness: float = SHARPNESS,
    scale: float = 1.0,
    resolution: float = 1e-12,
    **changes,
) -> Run:
    """A run whose relative errors are .5 lr at order 0 and 2 lr^2 at order 1, bars as large, rates exp(-time)."""
    own = {"lr": lr, "weight_decay": decay}
    settings = manifest(LAYERS)["settings"] | {"reference_lr": lr, "lr": [lr], "optimizer_settings": own}
    with RunWriter.create(path, manifest(LAYERS, settings=settings, **changes)) as writer:
        time = 0.0
        for step in range(steps):
            own = schedule(step) if schedule else lr
            if step % every == 0:
                rows = [
                    ("loss", scale * np.exp(9 * time if blown else -time)),
                    ("lr", own),
                    ("gradient_norm", np.exp(-time)),
                    ("sharpness", sharpness),
                ]
                writer.append(Row(step, time, "all", q, "measured", float(v)) for q, v in rows)
                writer.append(Row(step, time, g, "norm_squared", "measured", 4.0) for g in (*LAYERS, "all"))
                writer.append([Row(step, time, "all", "step_error", "order-0", 0.4 * own)][:orders])
                for place, group in enumerate(LAYERS, 1):
                    size = place * float(np.exp(-time))
                    source = last or reference if step + every >= steps else reference
                    writer.append([Row(step, time, group, "norm_squared_rate", source, size, resolution)])
                    for k, share in ((0, 0.5 * own), (1, 2 * own**2))[:orders]:
                        value, bar = size * (1 + share), size * share
                        writer.append([Row(step, time, group, "norm_squared_rate", f"order-{k}", value, bar)])
            time += own
        if end:
            writer.event(steps, time, "interrupted", end)
        writer.update(steps=steps, **({} if end else {"finished": "now"}))
    return open_run(path)
