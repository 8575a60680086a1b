"""Which networks of the zoo can be exported to ONNX, with which axes free, and how far ONNX Runtime is from PyTorch.

python bench/check_export.py [NAME ...] [--record]

Each two-dimensional network that gives probabilities is built from scratch for two classes at 128 x 128 (Swin UNETR, UNETR and DPT keep
grids of their own) and exported as `medseg export` does; a network that cannot be is told with the reason. Figures: the free axes of each
and the largest difference of a probability, of two images of the frame's size.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from record import command_line, tell

from medseg.deploy.networks import OnnxRuntimeNetwork
from medseg.exporting.graph import FREEDOMS, exported, write_onnx
from medseg.models.contract import Adapter, Task
from medseg.models.listed import listed
from medseg.models.listing import config_of
from medseg.models.zoo import adapt, build_network
from medseg.types import Size

FRAME = Size(128, 128)


def network(name: str) -> Adapter:
    """With batch norms' running values that are not their first ones, so that a graph which drops them is found."""
    config, task = config_of(name), Task(2, tuple(FRAME))
    torch.manual_seed(0)
    net = adapt(build_network(config, task), config, task)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.9, 1.1)
    return net.eval()


def tried(name: str, folder: Path) -> dict[str, object]:
    """The first freedom that holds."""
    net, reason, started = network(name), "", time.perf_counter()
    for varying in FREEDOMS:
        try:
            write_onnx(folder / "model.onnx", exported(net, FRAME, varying), net, FRAME)
        except Exception as cause:
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:120]}"
            continue
        image = torch.rand(2 if varying else 1, 3, *FRAME)
        with torch.inference_mode():
            off = abs(net(image).probs_BKHW.numpy() - OnnxRuntimeNetwork(folder / "model.onnx").probs(image.numpy())).max()
        return {"free": " ".join(varying) or "none", "largest_difference": float(off), "seconds": round(time.perf_counter() - started)}
    return {"free": "cannot be exported", "reason": reason}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or [one.name for one in listed() if 2 in one.dims and not config_of(one.name).objects]
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            figures[name] = tried(name, Path(folder))
            print(name, figures[name], file=sys.stderr, flush=True)
    tell("Networks as ONNX", "python bench/check_export.py", figures, options.record)


if __name__ == "__main__":
    main()
