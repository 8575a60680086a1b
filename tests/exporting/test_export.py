"""A run exported: ONNX Runtime and OpenVINO answer as PyTorch does, the folder says whence it comes, what cannot be exported is told."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from medseg import api, images
from medseg.config.model import MaskRcnnConfig
from medseg.config.volume import VolumeConfig
from medseg.deploy.description import StepPart, read_description
from medseg.deploy.model import open_export
from medseg.deploy.scored import are_of, read_scores
from medseg.deployed import open_model
from medseg.engine.infer import predict_image
from medseg.errors import ConfigError, ExportError, ImageError, ManifestError, RunError
from medseg.exporting import quantise
from medseg.exporting.verb import check_exportable, export
from medseg.files import sha256_file
from medseg.run import load_run
from medseg.types import Size
from tests.tiny import draw, make_all


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(run, data root, its export in both formats)."""
    root = tmp_path_factory.mktemp("exports")
    _, _, data_root, experiment = make_all(root)
    run = api.train(experiment, ["train.epochs=12", "infer.flip_tta=true"], data_root, root / "runs")
    api.evaluate(run.path, "val", data_root)
    return run, data_root, export(run.path, formats=("onnx", "torch-export"))


def drawn(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    return [draw(place, (int(generator.integers(20, 120)), int(generator.integers(20, 120))))[0] for place in range(count)]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_hundred_images_have_the_masks_of_pytorch(world, backend):
    run, _, found = world
    loaded, model = load_run(run.path), open_export(found.folder, backend)
    same = pixels = 0
    for image in drawn(100):
        wanted = predict_image(loaded.model, image, Size(*loaded.config.data.size_px), loaded.device, loaded.passes)
        same += int((model.segment(image).mask_HW == wanted).sum())
        pixels += wanted.size
    assert same / pixels >= 0.9999


def test_batch_height_and_width_are_free(world):
    run, _, found = world
    graph = onnx.load(found.folder / "model.onnx")
    names = [[side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim] for value in graph.graph.input]
    assert names == [["batch", 3, "height", "width"]]
    model, network = open_export(found.folder, "onnxruntime"), load_run(run.path).model.network
    program = torch.export.load(found.folder / "model.pt2").module(check_guards=False)
    for shape in ((1, 3, 32, 48), (3, 3, 33, 47), (2, 3, 16, 130), (5, 3, 64, 17)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            wanted = network(image).probs_BKHW.numpy()
            assert np.abs(program(image).numpy() - wanted).max() < 1e-4, shape
        assert np.abs(model.network.probs(image.numpy()) - wanted).max() < 1e-4, shape


def test_the_folder_says_whence_it_comes(world):
    run, _, found = world
    description = read_description(found.folder)
    digests = json.loads(run.digests_json.read_text())
    assert description.origin.run == run.id and description.origin.network == "unet" and description.frame.mirrored_too
    assert description.origin.weights_sha256 == sha256_file(run.checkpoint("best"))
    assert (description.origin.manifest_sha256, description.origin.split_sha256) == (digests["manifest_sha256"], digests["split_sha256"])
    assert description.labels.names == ("background", "disc", "square") and "Per image" in description.protocol
    assert {path.name for path in found.folder.iterdir()} == {"model.json", "model.onnx", "model.pt2", "MODEL_CARD.md"}
    card = (found.folder / "MODEL_CARD.md").read_text()
    for said in (
        "Network unet",
        "Trained from scratch, no weights",
        "Recipe: ",
        "no medical device",
        "| disc | ",
        "n = 4/4",
        "12 train",
        "4 val",
        "chosen on val",
        "mirror image",
        "licence: not stated",
    ):
        assert said in card, said


def test_an_export_is_whole_or_not_there(world, tmp_path):
    run, _, found = world
    with pytest.raises(ExportError, match="holds an export already"):
        export(run.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all my work")
    with pytest.raises(ExportError, match="is there already, and no export"):
        export(run.path, tmp_path / "mine", overwrite=True)
    with pytest.raises(ExportError, match="there is no format 'tensorrt'"):
        export(run.path, tmp_path / "other", ("tensorrt",))
    with pytest.raises(ExportError, match="--int8.*is of ONNX graphs"):
        export(run.path, tmp_path / "other", ("torch-export",), int8=True)
    assert not (tmp_path / "other").exists() and (tmp_path / "mine/thesis.txt").read_text() == "all my work"


def test_what_has_no_probabilities_of_photographs_is_refused(world):
    run, _, _ = world
    loaded = load_run(run.path)
    finder = loaded.config.model_copy(update={"model": MaskRcnnConfig(name="maskrcnn_resnet50_fpn")})
    with pytest.raises(ExportError, match="finds objects and has no probabilities"):
        check_exportable(replace(loaded, config=finder))
    volumes = loaded.config.model_copy(
        update={"data": loaded.config.data.model_copy(update={"volume": VolumeConfig(spacing_mm=(1, 1, 1))})}
    )
    with pytest.raises(ExportError, match="is of volumes"):
        check_exportable(replace(loaded, config=volumes))


def test_predict_takes_an_export_and_loads_no_torch(world, tmp_path):
    run, data_root, found = world
    photographs = sorted((data_root / "images").iterdir())[:5]
    command = (
        "import sys; from medseg import predicting; "
        f"predicting.predict({str(found.folder)!r}, {[str(path) for path in photographs]!r}, {str(tmp_path / 'out')!r}); "
        "sys.exit(1 if 'torch' in sys.modules or 'monai' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
    loaded = load_run(run.path)
    for path in photographs:
        wanted = predict_image(loaded.model, images.read_image(path), Size(32, 48), loaded.device, loaded.passes)
        assert (images.read_mask(tmp_path / "out" / path.name) == wanted).mean() > 0.999
        assert (tmp_path / "out" / f"{path.stem}_overlay.jpg").stat().st_size
    with pytest.raises(ConfigError, match="has no checkpoints"):
        api.predict(found.folder, photographs, tmp_path / "again", checkpoint="last")


@pytest.mark.parametrize("backend", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("auto", "bfloat16", "compiled")), "eager"])
def test_a_run_itself_is_a_model(world, backend):
    run, _, found = world
    image = drawn(1)[0]
    with open_model(run.path, backend) as model, open_model(found.folder, "onnxruntime") as exported:
        assert model.network.backend == {"auto": "openvino", "bfloat16": "openvino bfloat16"}.get(backend, backend)
        assert (model.segment(image).mask_HW == exported.segment(image).mask_HW).mean() > (0.98 if backend == "bfloat16" else 0.999)
        assert model.card and "no medical device" in model.card


def test_what_cannot_be_opened_is_told(world, tmp_path):
    _, _, found = world
    with pytest.raises(ConfigError, match="there is no 'cuda'"), open_model(found.folder, "cuda"):
        pass
    with pytest.raises(ExportError, match="which eager cannot run"), open_model(found.folder, "eager"):
        pass
    with pytest.raises(ConfigError, match="has no checkpoints"), open_model(found.folder, checkpoint="last"):
        pass
    with pytest.raises(RunError, match="there is no such run folder"), open_model(tmp_path / "nothing"):
        pass


def test_scores_of_another_checkpoint_or_other_steps_are_not_shown(world, tmp_path):
    run, _, found = world
    assert "This network was never scored" not in (found.folder / "MODEL_CARD.md").read_text() and found.description.protocol
    last = export(run.path, tmp_path / "last", checkpoint="last")
    card = (last.folder / "MODEL_CARD.md").read_text()
    assert "This network was never scored as it is exported" in card and "| disc | " not in card and not last.description.protocol
    steps = found.description.model_copy(update={"steps": (StepPart(name="disc", kind="largest"),)})
    scores = read_scores(run, "val")
    assert scores and are_of(scores, found.description) and not are_of(scores, steps)


@pytest.mark.slow
def test_eight_bits_are_kept_where_val_says_so_and_refused_where_not(world, tmp_path, monkeypatch):
    run, data_root, found = world
    with pytest.raises(ManifestError, match="data root"):
        export(run.path, tmp_path / "none", int8=True)
    monkeypatch.setattr(quantise, "MOST_LOSS", 1.0)  # of this tiny network eight bits take more than of a real one
    small = export(run.path, tmp_path / "small", int8=True, data_root=data_root)
    assert small.int8 and small.int8.images == 12 and 0 <= small.int8.after <= 1 and small.description.graphs["onnx"].int8
    scored = json.loads((run.evaluation("val") / "scores.json").read_text())["summary"]["miou_pooled/without_background"]["mean"]
    assert small.int8.before == pytest.approx(scored, abs=1e-3)
    assert {node.op_type for node in onnx.load(small.folder / "model.onnx").graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert open_export(small.folder).segment(drawn(1)[0]).mask_HW.any() and "of 8 bits" in (small.folder / "MODEL_CARD.md").read_text()
    monkeypatch.setattr(quantise, "MOST_LOSS", -1.0)  # nothing could be good enough
    with pytest.raises(ExportError, match="with 8 bits val IoU falls from"):
        export(run.path, tmp_path / "refused", int8=True, data_root=data_root)
    assert not (tmp_path / "refused").exists()


def test_a_volume_is_told_where_it_belongs(world, tmp_path):
    _, _, found = world
    (tmp_path / "scan.nii.gz").write_bytes(b"a volume, by its name")
    with pytest.raises(ImageError, match="is a volume, and exports are of photographs"):
        api.predict(found.folder, [tmp_path / "scan.nii.gz"], tmp_path / "out")
