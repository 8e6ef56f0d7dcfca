"""Where a running training meets the disk."""

from eom.tracking.track import track
from eom.tracking.tracker import Tracker

__all__ = ["Tracker", "track"]
