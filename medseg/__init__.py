"""medseg: annotated medical images in, a metric table you may publish out."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("medseg")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
