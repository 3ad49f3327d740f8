"""Training seen through its batch norms: what they get, do and learn, recorded and drawn."""

from bnfast.viz.recorder import Recorder
from bnfast.viz.recording import Recording
from bnfast.viz.records import Channels, Distribution, Record

__all__ = ["Channels", "Distribution", "Record", "Recorder", "Recording"]
