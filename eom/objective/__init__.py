"""Model, loss and data as one function of one flat vector."""

from eom.objective.objective import Objective

__all__ = ["Objective"]
