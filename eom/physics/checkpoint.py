"""Where a training stands: best parameters and history, and files of it that hold arrays only, no pickle."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eom.errors import DataError
from eom.physics.archives import read_arrays
from eom.physics.models import LearnedSystem
from eom.physics.trajectories import Window

State = dict[str, Tensor]


class Kept(NamedTuple):
    """After ``step`` steps: the best parameters, the step they are of, their loss, and measurements since then."""

    step: int
    best: int
    least: float
    waited: int
    history: list[tuple[int, float, float]]
    parameters: State

    @staticmethod
    def of(model: nn.Module, seen: float) -> "Kept":
        """At the start, with the loss on unseen data, or nan."""
        return Kept(0, 0, seen if math.isfinite(seen) else math.inf, 0, [], copied(model))

    def after(self, step: int, loss: float, seen: float | None, model: nn.Module) -> "Kept":
        """With a measurement: the loss, and that on unseen data, or None, where the last parameters are the best."""
        history = [*self.history, (step, loss, math.nan if seen is None else seen)]
        if seen is None or seen < self.least:
            return Kept(step, step, math.inf if seen is None else seen, 0, history, copied(model))
        return self._replace(step=step, waited=self.waited + 1, history=history)


def copied(model: nn.Module) -> State:
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def about(model: LearnedSystem, window: Window) -> dict[str, str]:
    """What a training is of: the names of field and rule, and a hash of its windows."""
    rule = model.rule if isinstance(model.rule, FunctionType) else type(model.rule)
    observed = [x for x in (window.t, window.u, window.slope) if x is not None]
    numbers = b"".join(_bits(x.contiguous(), torch.uint8).numpy().tobytes() for x in observed)
    seen = hashlib.sha256(numbers).hexdigest()
    return {"field": type(model.field).__name__, "rule": rule.__name__, "data, window or stride": seen}


def save(
    path: str | Path, model: LearnedSystem, optimizer: Optimizer, draw: torch.Generator, of: dict[str, str],
    kept: Kept, loss: float,
) -> None:  # fmt: skip
    """Write one .npz file, in place of the former one at once."""
    arrays: dict[str, np.ndarray] = {"generator": draw.get_state().numpy()}
    tree = {
        "of": of, "model": dict(model.state_dict()), "best": kept.parameters,
        "optimizer": optimizer.state_dict(), "kind": type(optimizer).__name__,
        "loss": loss, "kept": [kept.step, kept.best, kept.least, kept.waited, kept.history],
    }  # fmt: skip
    arrays["tree"] = np.array(json.dumps(_flat(tree, arrays)))
    path = Path(path)
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)  # type: ignore[arg-type] - its stub takes names for settings
    os.replace(part, path)


def load(
    path: str | Path, model: LearnedSystem, optimizer: Optimizer, draw: torch.Generator, of: dict[str, str],
    losses: Callable[[], tuple[float, float]],
) -> Kept:  # fmt: skip
    """Bring model, optimizer and generator to where the file says, with the ``losses`` of then.

    Raises:
        DataError: no such file, or one of another model, rule, loss, optimizer or data; all are left as they were.
    """
    arrays = read_arrays(path)
    before = copied(model), deepcopy(optimizer.state_dict()), draw.get_state()
    try:
        if "tree" not in arrays:
            raise ValueError(f"it holds {', '.join(arrays)}")
        tree = _whole(json.loads(str(arrays["tree"])), arrays)
        if other := [name for name in of if of[name] != tree["of"].get(name)]:
            raise ValueError(f"it differs in {' and '.join(other)}: continue that training, or choose another file")
        if tree["kind"] != type(optimizer).__name__:
            raise ValueError(f"it was written with {tree['kind']}, and the optimizer is {type(optimizer).__name__}")
        there, here = ({name: list(x.shape) for name, x in part.items()} for part in (tree["model"], before[0]))
        if there != here:
            name = next(x for x in (*here, *there) if there.get(x) != here.get(x))
            raise ValueError(
                f"its {name} is of shape {there.get(name, 'none')}, the model's {here.get(name, 'none')}: make the "
                "model as it was, or choose another file"
            )
        *counts, history = tree["kept"]
        kept = Kept._make([*counts, [tuple(row) for row in history], tree["best"]])
        _restore(model, optimizer, draw, (tree["model"], tree["optimizer"], torch.from_numpy(arrays["generator"])))
        eps = torch.finfo(model.dtype).eps
        for then, now in zip((tree["loss"], kept.history[-1][2]), losses(), strict=True):  # nan where one is not known
            if abs(now - then) > max(math.sqrt(eps) * abs(then), eps * abs(kept.history[0][1])):
                raise ValueError(
                    f"its parameters have the loss {now:.12g} with the structure, stepper, activation, loss and "
                    f"validation given here, and had {then:.12g}: give those of then, or choose another file"
                )
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as failure:
        _restore(model, optimizer, draw, before)
        raise DataError(f"{path} is no checkpoint of this model and optimizer: {failure}") from failure
    return kept


def _restore(model: nn.Module, optimizer: Optimizer, draw: torch.Generator, to: tuple[State, Any, Tensor]) -> None:
    model.load_state_dict(to[0])
    optimizer.load_state_dict(to[1])
    draw.set_state(to[2])


def _flat(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree in JSON, its tensors put among the arrays."""
    if isinstance(tree, Tensor):
        narrow = tree.dtype is torch.bfloat16  # which numpy does not have
        arrays[name := f"a{len(arrays)}"] = (_bits(tree, torch.int16) if narrow else tree.detach().cpu()).numpy()
        return {"array": name, "bfloat16": narrow}
    if isinstance(tree, dict):  # keys may be numbers
        return {"items": [[key, _flat(value, arrays)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_flat(x, arrays) for x in tree]
    return tree


def _bits(x: Tensor, as_one: torch.dtype) -> Tensor:
    return x.detach().cpu().view(as_one)


def _whole(tree: Any, arrays: Any) -> Any:
    if isinstance(tree, list):
        return [_whole(x, arrays) for x in tree]
    if isinstance(tree, dict) and "array" in tree:
        found = torch.from_numpy(arrays[tree["array"]])
        return found.view(torch.bfloat16) if tree.get("bfloat16") else found
    if isinstance(tree, dict):
        return {key: _whole(value, arrays) for key, value in tree["items"]}
    return tree
