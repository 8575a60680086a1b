"""What the zoo lists: every name of the config once, costs against what the libraries state, and the engine that knows no name."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from medseg.config.model import CLASS_OF, ENCODERS
from medseg.models.contract import Task
from medseg.models.cost import cost_of
from medseg.models.listed import listed as listed_before
from medseg.models.listing import GRID, config_of, count
from medseg.models.zoo import FAMILIES, entries
from tests.models.contract import NetworkContract
from tests.models.test_overfit import PAIRS

HERE = Path(__file__).parent
ENGINE = HERE.parents[1] / "medseg" / "engine"
STATED = [name for name in CLASS_OF if name.startswith(("fcn_resnet", "deeplabv3_", "lraspp_")) and name in models.list_models()]


@pytest.fixture(scope="module")
def listed():
    return entries()


def test_every_network_is_listed_once_and_can_be_named(listed):
    names = [entry.name for entry in listed]
    assert len(set(names)) == len(names)
    assert {name for name in names if not name.startswith("smp:")} == set(CLASS_OF)
    assert all(ENCODERS.fullmatch(name) for name in names if name.startswith("smp:")) and any(name.startswith("smp:") for name in names)
    assert {name for name in names if name.startswith("smp:")} == set(PAIRS), "each has its proof in test_overfit.py"
    assert all(entry.dims == config_of(entry.name).dims for entry in listed)
    assert all(entry.paper and entry.licence and entry.library and set(entry.dims) <= {2, 3} for entry in listed)


def test_each_network_keeps_the_contract_in_each_number_of_dimensions(listed):
    """Some small, some as they are, and in slow tests most: but none that is listed without."""
    for path in HERE.glob("test_*.py"):
        importlib.import_module(f"tests.models.{path.stem}")
    tested = {(each.config.name, len(each.grid)) for each in NetworkContract.__subclasses__()}
    assert not {(entry.name, dims) for entry in listed for dims in entry.dims} - tested


@pytest.mark.parametrize("name", STATED)
def test_parameters_are_those_that_torchvision_states(name):
    """num_params of the published weights, which have 21 classes and, but for LR-ASPP, an auxiliary head."""
    stated = models.get_model_weights(name)["DEFAULT"].meta["num_params"]
    assert cost_of(config_of(name), Task(21, (64, 64))).parameters == stated


def test_multiply_adds_of_one_convolution_by_hand():
    """Through the whole way: a network of one's own with a single 3 x 3 convolution."""
    from medseg.config.model import OwnConfig

    cost = cost_of(OwnConfig(name="tests.models.test_zoo:one_convolution"), Task(2, (32, 48)))
    assert cost.parameters == 3 * 2 * 9 + 2 and cost.multiply_adds == 32 * 48 * 3 * 2 * 9


def test_what_is_listed_was_counted():
    """The cheapest here, all in the slow test below."""
    [line] = [line for line in listed_before() if line.name == "lraspp_mobilenet_v3_large"]
    cost = cost_of(config_of(line.name), Task(2, GRID))
    assert (line.parameters, line.multiply_adds) == (cost.parameters, cost.multiply_adds)


def test_every_entry_is_in_the_table(listed):
    def facts(one):
        return one.name, one.library, one.paper, one.licence, one.weights, one.dims

    assert [facts(line) for line in listed_before()] == [facts(entry) for entry in listed], "run `make reference`"


def test_listing_imports_no_library():
    code = "import sys; from medseg.models.listed import listed; listed(); sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_all_that_is_listed_was_counted():
    assert count(2) == listed_before(), "run `make reference`"


def one_convolution(num_classes):
    return nn.Conv2d(3, num_classes, 3, padding=1)


def test_counting_leaves_the_random_state(listed):
    before = torch.get_rng_state()
    cost_of(config_of("unet"), Task(2, (64, 64)))
    assert (torch.get_rng_state() == before).all()


def test_the_engine_names_no_network(listed):
    """Nor a library of networks; MONAI's sliding window over volumes is none."""
    libraries = {"monai.networks", "transformers", "timm", "segmentation_models_pytorch"}
    names = {*(entry.name for entry in listed), *FAMILIES, *libraries} - {"monai"}
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names), re.IGNORECASE)
    assert pattern.findall("nnU-Net's 'unet', Transformers, MaskRcnn, smp/pan") == ["unet", "Transformers", "MaskRcnn", "smp"]
    for path in ENGINE.rglob("*.py"):
        assert not pattern.findall(path.read_text()), path
        assert not re.search(r"config\.model\.name\s*==|isinstance\(.*(Config|Network)\)", path.read_text()), path
