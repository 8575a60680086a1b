"""The parts of MONAI that medseg uses, imported without MLflow.

`import monai` imports every optional package it finds, mlflow among them: seconds at each start, and against the promise that a run with
tracking off imports none. So mlflow is hidden while MONAI is imported for the first time, and free again afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Make `import name` fail with ImportError inside the block, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's own way to say "not to be had"
    try:
        yield
    finally:
        del sys.modules[name]


with _hidden("mlflow"):
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import (
        UNETR,
        AttentionUnet,
        BasicUNet,
        BasicUNetPlusPlus,
        DynUNet,
        FlexibleUNet,
        SegResNet,
        SwinUNETR,
        UNet,
    )
    from monai.networks.nets.efficientnet import url_map as EFFICIENTNET_URLS  # noqa: N812

__all__ = [
    "EFFICIENTNET_URLS", "UNETR", "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "FlexibleUNet", "SegResNet", "SwinUNETR",
    "UNet", "sliding_window_inference",
]  # fmt: skip
