"""Whether the model and the optimizer are still those that the run began with."""

from torch import nn
from torch.optim import Optimizer

from eom.objective.parameters import trainable
from eom.training.descent import owned


class Watch:
    """Compares the trainable parameters, and what the optimizer holds, with the beginning."""

    def __init__(self, model: nn.Module, optimizer: Optimizer):
        self._model, self._optimizer = model, optimizer
        self._kinds, self._held = self._kinds_now(), self._held_now()

    def parameters(self) -> str | None:
        """What makes the parameters no longer those that the run began with, if anything."""
        now = self._kinds_now()
        if now == self._kinds:
            return None
        if [x[0] for x in now] != [x[0] for x in self._kinds]:
            return "parameters were added, replaced, frozen or unfrozen since the run began"
        return "the parameters were moved to another dtype or device, or given another shape, since the run began"

    def optimizer(self) -> str | None:
        """What is new about the parameters that the optimizer holds, if anything; said once."""
        before, self._held = self._held, self._held_now()
        if self._held == before:
            return None
        return "the optimizer holds other parameters than before" + ("" if self.owned else ", not all of this model")

    @property
    def owned(self) -> bool:
        """Whether the optimizer holds parameters of the model only."""
        return all(owned(self._optimizer, self._model))

    def _kinds_now(self) -> list:
        return [(id(p), p.dtype, p.device, p.shape) for p in trainable(self._model).values()]

    def _held_now(self) -> list[int]:
        return [id(p) for group in self._optimizer.param_groups for p in group["params"]]
