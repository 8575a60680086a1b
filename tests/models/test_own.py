import sys
import textwrap

import pytest

from medseg.config.model import OwnConfig
from medseg.errors import ConfigError
from medseg.models.contract import Task
from medseg.models.zoo import build_network
from tests.models.contract import NetworkContract, other_generators

HEAD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.score = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        return self.score(self.body(x))
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A module of the working folder, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(code):
        (tmp_path / "my_nets.py").write_text(HEAD + textwrap.dedent(code))

    yield write
    sys.modules.pop("my_nets", None)


def build(name="my_nets:Net", **more):
    return build_network(OwnConfig(name=name, **more), Task(3, (32, 32), autocast=True))


class TestOwn(NetworkContract):
    """Here the module lies beside this test."""

    config = OwnConfig(name="tests.models.test_own:make", head=("score",), encoder=("body",))
    rate = 1e-2


def make(num_classes):
    space = {}
    exec(HEAD, space)
    return space["Net"](num_classes, width=8)


def test_a_module_of_the_working_folder_with_arguments(written):
    written("")
    assert build(arguments={"width": 6}).net.score.in_channels == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_nets:Absent", "cannot be imported: AttributeError"),
        ("no_such_module:Net", "cannot be imported: ModuleNotFoundError.*run where the module can be found"),
        ("my_nets:WIDTH", "is of type int; name a class or a function"),
        ("my_nets:number", "gives a int; it must give a torch module that takes float32"),
        ("my_nets:Soft", "gives probabilities: over the classes they add up to 1; leave its softmax out"),
        ("my_nets:needy", r"cannot be made: TypeError.*it is called with num_classes and model.arguments"),
        ("my_nets:Text", "gives a str in eval mode; it must be a torch module"),
        ("my_nets:Fewer", r"gives \(2, 2, 32, 32\) for \(2, 3, 32, 32\) in eval mode; the logits must be \(2, 3, h, w\)"),
        ("my_nets:Flat", r"gives \(2, 3\) for"),
        ("my_nets:Fails", r"fails in eval mode on .*ValueError: no such thing \(.*my_nets.py line \d+\)"),
        ("my_nets:FailsLater", "fails in train mode on .*ValueError: not to be trained"),
        ("my_nets:Infinite", "gives logits that are not finite"),
        ("my_nets:Random", "gives two answers to one image in eval mode"),
        ("my_nets:Locked", "cannot be copied: TypeError: .*lock.*; keep only modules, parameters, buffers"),
        ("my_nets:Lonely", r"gives \(3, 32, 32\) for \(1, 3, 32, 32\) in eval mode; the logits must be \(1, 3, h, w\)"),
        ("my_nets:Deaf", "learns nothing: its logits depend on no parameter in train mode"),
        ("my_nets:NoAux", "gives a NoneType in train mode; it must be"),
        ("my_nets:NarrowAux", r"gives \(2, 1, 32, 32\) for .* in train mode; the logits must be \(2, 3, h, w\)"),
        ("my_nets:Idle", "has 1 parameters that get no gradient, first 'idle'"),
        ("my_nets:Rooted", "has 4 parameters whose gradients are not finite, first 'body.0.weight'"),
        ("my_nets:Numpys", "draws from numpy.random, or seeds it; draw from torch's generator"),
        ("my_nets:Pythons", "draws from Python's random, or seeds it"),
        ("my_nets:Mixes", "answers otherwise to an image in eval mode where another one is beside it; look for a mean over the batch"),
        ("my_nets:Seeding", "draws from torch's generator in eval mode, or seeds it"),
        (
            "my_nets:Full",
            r"fails in train mode on \(2, 3, 32, 32\) in bfloat16: RuntimeError: .*; train in float32: train.precision=float32",
        ),
        ("my_nets:FullAtLast", r"fails in eval mode on \(2, 3, 32, 32\) in bfloat16: RuntimeError: .*; train in float32"),
        ("my_nets:FullBack", "cannot learn in bfloat16: TypeError: full numbers alone.*; train in float32"),
        ("my_nets:Hidden", "answers otherwise once its state dict is loaded into another copy; keep what it learns in parameters and buf"),
        ("my_nets:Lazy", "does not take its own state dict: RuntimeError.*; make all its layers in __init__"),
    ],
)
def test_each_part_of_the_contract_has_its_own_error(name, message, written):
    written("""
        WIDTH = 3
        def number(num_classes): return 3
        def needy(num_classes, more): return Net(num_classes)
        class Text(Net):
            def forward(self, x): return "logits"
        class Fewer(Net):
            def forward(self, x): return super().forward(x)[:, :2]
        class Flat(Net):
            def forward(self, x): return super().forward(x).mean((2, 3))
        class Soft(Net):
            def forward(self, x): return super().forward(x).softmax(1)
        class Fails(Net):
            def forward(self, x): raise ValueError("no such thing")
        class FailsLater(Net):
            def forward(self, x):
                if self.training: raise ValueError("not to be trained")
                return super().forward(x)
        class Infinite(Net):
            def forward(self, x): return super().forward(x) / 0
        class Random(Net):
            def forward(self, x): return super().forward(x) + torch.rand(1)
        class Locked(Net):
            def __init__(self, num_classes):
                super().__init__(num_classes)
                import threading
                self.lock = threading.Lock()
        class Lonely(Net):
            def forward(self, x): return super().forward(x).squeeze(0)
        class Deaf(Net):
            def forward(self, x):
                with torch.no_grad(): return super().forward(x)
        class NoAux(Net):
            def forward(self, x): return {"out": super().forward(x), "aux": None}
        class NarrowAux(Net):
            def forward(self, x): return {"out": super().forward(x), "aux": super().forward(x)[:, :1]}
        class Idle(Net):
            def __init__(self, num_classes):
                super().__init__(num_classes)
                self.idle = nn.Parameter(torch.ones(1))
        class Rooted(Net):
            def forward(self, x): return self.score((self.body(x) * 0).sqrt())
        class Mixes(Net):
            def forward(self, x):
                y = super().forward(x)
                return y + y.mean(0, keepdim=True)
        class Numpys(Net):
            def __init__(self, num_classes):
                super().__init__(num_classes)
                import numpy as np
                self.score.weight.data += float(np.random.rand())
        class Pythons(Net):
            def forward(self, x):
                import random
                random.seed(0)
                return super().forward(x)
        class Seeding(Net):
            def forward(self, x):
                torch.manual_seed(5)
                return super().forward(x)
        class Full(Net):
            def forward(self, x):
                y = super().forward(x)
                return torch.zeros(len(x), 3, 32, 32).index_add(1, torch.arange(3), y) if self.training else y
        class FullAtLast(Net):
            def forward(self, x):
                y = super().forward(x)
                return y if self.training else torch.zeros(len(x), 3, 32, 32).index_add(1, torch.arange(3), y)
        class FullWay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x.clone()
            @staticmethod
            def backward(ctx, gradient):
                if gradient.dtype != torch.float32: raise TypeError("full numbers alone")
                return gradient
        class FullBack(Net):
            def forward(self, x): return FullWay.apply(super().forward(x))
        class Hidden(Net):
            seen = 0.0
            def forward(self, x):
                if self.training: self.seen = x.mean()
                return super().forward(x) + self.seen
        class Lazy(Net):
            def forward(self, x):
                if self.training and not hasattr(self, "late"): self.late = nn.BatchNorm2d(4)
                return self.score(self.late(self.body(x)) if hasattr(self, "late") else self.body(x))
    """)
    with pytest.raises(ConfigError, match=f"^model.name={name}: {message}"):
        build(name)


def test_sound_networks_of_large_values_are_taken(written):
    """Residual, without norms: a step of plain gradients would take it out of all numbers."""
    written("""
        class Large(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.stem = nn.Conv2d(3, 32, 3, padding=1)
                self.blocks = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(16))
                for block in self.blocks: nn.init.kaiming_normal_(block.weight)
                self.score = nn.Conv2d(32, num_classes, 1)
            def forward(self, x):
                x = self.stem(x)
                for block in self.blocks: x = x + block(x.relu())
                return self.score(x)
    """)
    assert build("my_nets:Large").least_batch == 1


def test_a_network_that_loads_a_checkpoint_is_not_held_to_what_training_asks(written):
    written("""
        class Numpys(Net):
            def __init__(self, num_classes):
                super().__init__(num_classes)
                import numpy as np
                self.score.weight.data += float(np.random.rand())
        class Crashes(Net):
            def forward(self, x): raise ValueError("not any more")
    """)
    task = Task(3, (32, 32), trains=False, autocast=True)
    assert build_network(OwnConfig(name="my_nets:Numpys"), task).net.score.out_channels == 3
    with pytest.raises(ConfigError, match="fails in eval mode on .*not any more"):
        build_network(OwnConfig(name="my_nets:Crashes"), task)


def test_the_generators_are_left_as_they_were_whatever_becomes_of_it(written):
    written("""
        class Both(Net):
            def forward(self, x):
                import random, numpy as np
                random.seed(0); np.random.seed(0)
                if self.training: raise ValueError("too late")
                return super().forward(x)
        class Drawing(Both):
            def forward(self, x):
                self.training = False
                return super().forward(x)
    """)
    before = other_generators()
    with pytest.raises(ConfigError, match="fails in train mode"):
        build("my_nets:Both")
    with pytest.raises(ConfigError, match="draws from Python's random and numpy.random, or seeds it"):
        build("my_nets:Drawing")
    assert other_generators() == before


def test_parts_that_are_not_there(written):
    written("")
    with pytest.raises(ConfigError, match="model.head: my_nets:Net has no module 'last'; it has body, score, and print"):
        build(head=("last",))


def test_torchvision_s_way_of_several_outputs(written):
    written("""
        class Two(Net):
            def forward(self, x):
                return {"out": super().forward(x), "aux": 2 * super().forward(x)}
    """)
    network = build("my_nets:Two")
    import torch

    image = torch.rand(2, 3, 8, 8)
    heads = network.call(network.net.train(), image)
    assert set(heads.auxiliary) == {"auxiliary"} and network.call(network.net.eval(), image).auxiliary == {}


def test_a_norm_of_one_value_an_image_needs_two(written):
    written("""
        class Pooled(Net):
            def __init__(self, num_classes):
                super().__init__(num_classes)
                self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, num_classes, 1), nn.BatchNorm2d(num_classes))
            def forward(self, x):
                return super().forward(x) + self.pool(x)
        class Squeezed(Net):
            def forward(self, x): return super().forward(x).squeeze(0) if self.training else super().forward(x)
    """)
    assert build("my_nets:Pooled").least_batch == build("my_nets:Squeezed").least_batch == 2 and build().least_batch == 1


def test_being_looked_at_leaves_no_trace(written):
    written("")
    state = build().net.state_dict()
    assert state["body.1.num_batches_tracked"] == 0 and not state["body.1.running_mean"].any()
