"""Exceptions and warnings, named after the situation the user is in."""

import sys
import warnings

INSIDE = ("eom", "torch", "torchdiffeq", "contextlib")  # packages whose lines say nothing to the user


class EomError(Exception):
    """Any error that `eom` raises on purpose; its text says what came, what was wanted, what to do."""


class EomWarning(UserWarning):
    """Something that a running training should not be stopped for."""


class SettingError(EomError, ValueError):
    """A setting (order, step, schedule, group, method) outside what it may be."""


class LossNotScalarError(EomError, TypeError):
    """The loss function returned something other than one real number as a tensor."""


class LossNotFiniteError(EomError, ArithmeticError):
    """The loss or a derivative of it is NaN or infinite."""


class LossNotDifferentiableError(EomError, RuntimeError):
    """The loss has no gradient, or no second derivative, with respect to the model's parameters."""


class LossNotDeterministicError(EomError, RuntimeError):
    """Two evaluations at the same parameters, generator states and buffers differ."""


class ParametersError(EomError, ValueError):
    """The parameters cannot stand in one real flat vector: none, complex, sparse, or on two devices."""


class DataError(EomError, ValueError):
    """The data is not one batch, nor a re-iterable of the same batches."""


class WrongModelError(EomError, ValueError):
    """The optimizer or the loss belongs to another model than the tracked one."""


class RankError(EomError, RuntimeError):
    """A process of a group was lost, or asks for something else than the others."""


class IntegrationError(EomError, RuntimeError):
    """The reference flow could not be followed to the end of its time span."""


class NoiseError(EomError, ValueError):
    """A diffusion of the wrong shape, of no covariance, or of another kind than a stepper takes."""


class ExplosionError(EomError, ArithmeticError):
    """A path left the finite numbers, or a step is too large for its scheme to be stable."""


class DiscreteError(EomError, ValueError):
    """An energy that has no discrete gradient as it is written."""


class StepError(EomError, ArithmeticError):
    """An implicit step that does not converge, or is asked for more derivatives than it has."""


class TrackingWarning(EomWarning):
    """A quantity of a running training is withheld; the training goes on."""


class SweepWarning(EomWarning):
    """Runs of a sweep that failed; the others are whole."""


class FolderNotWritableError(EomError, OSError):
    """A place where no run folder can be made or written."""


class FolderUsedError(EomError, FileExistsError):
    """A folder that already holds a run."""


class FolderInUseError(EomError, BlockingIOError):
    """Another writer has the run open at this moment."""


class RecordsNotWritten(EomError, OSError):
    """The disk took no more; ``waiting`` rows are held in memory for the next attempt."""

    def __init__(self, message: str, waiting: int = 0):
        super().__init__(message)
        self.waiting = waiting


class NotARunError(EomError, FileNotFoundError):
    """A path that holds no run of this package."""


class NewerRunError(EomError, ValueError):
    """A run written by a later version, in a format that this one does not know."""


class DamagedRunError(EomError, ValueError):
    """A run whose files were changed by something else, so that they can no longer be read."""


class TornTableWarning(EomWarning):
    """The last row of a table was cut off, as by a kill in the middle of a write; it is left out."""


class MissingExtraError(EomError, ImportError):
    """Something that was asked for needs a package that is only installed on request."""


def warn_user(message: str, kind: type[EomWarning]) -> None:
    """Warn at the line of the user's own from which the warning came."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)
