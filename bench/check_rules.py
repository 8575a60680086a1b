"""medseg's convention row against the libraries themselves: nnU-Net, segmentation_models.pytorch, MMSegmentation, MISeval.

And its volume similarity of each image and class against MISeval's.

python bench/check_rules.py [--sets 200] [--record]

None of them is a dependency: run it in a second venv with a .pth file to medseg's own and pip install --no-deps nnunetv2 miseval mmengine
segmentation-models-pytorch mmsegmentation, and what their evaluators import: batchgenerators acvl_utils blosc2 ndindex numexpr msgpack
einops dynamic_network_architectures SimpleITK timm huggingface-hub httpx httpcore addict termcolor yapf. What cannot be imported is named
and skipped. Prints one JSON line; exits 1 where a number is further off than 1e-6 or nothing ran.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from record import command_line, tell

from medseg.labels import LabelSet
from medseg.metrics.counts import confusion, counts_table, members
from medseg.metrics.rules import OtherRules
from medseg.metrics.scores import METRICS, ratio_table

Pairs = list[tuple[np.ndarray, np.ndarray]]  # reference and prediction of each image, uint8 (H, W)
Theirs = dict[tuple[str, str], Any]  # (rule, field of RuleScores) -> their float or list of floats by class
OWN = ("medseg's own, per image", "volume_similarity")  # no rule of another library: one float an image and class, image by image


def bare_package(name: str) -> None:
    """Let modules of an installed package be imported without its __init__, which wants more than its metrics do (mmcv, timm)."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError(f"{name} is not installed")
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules[name] = package


def nnunet() -> Callable[[Pairs, int], Theirs]:
    """nnunetv2.evaluation.evaluate_predictions.compute_metrics_on_folder itself; masks come from memory, and its pool is this process."""
    module = importlib.import_module("nnunetv2.evaluation.evaluate_predictions")

    class InMemory:
        def __init__(self, pairs: Pairs) -> None:
            self.masks = {f"{side}/{i:03d}.png": pair[s] for i, pair in enumerate(pairs) for s, side in enumerate(("ref", "pred"))}

        def read_seg(self, name: str) -> tuple[np.ndarray, dict]:
            return self.masks[name].astype(np.int16)[None, None], {}

    class HerePool:
        def __init__(self, *_: int) -> None: ...
        def __enter__(self) -> HerePool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def starmap(self, function: Callable, jobs: list) -> list:
            return [function(*job) for job in jobs]

    module.multiprocessing = ModuleType("multiprocessing")
    module.multiprocessing.get_context = lambda _: type("Context", (), {"Pool": HerePool})

    def score(pairs: Pairs, k: int) -> Theirs:
        reader = InMemory(pairs)
        module.subfiles = lambda folder, **_: sorted(name.split("/")[1] for name in reader.masks if name.startswith(folder))
        found = module.compute_metrics_on_folder("ref", "pred", None, reader, ".png", list(range(1, k)), ignore_label=255, num_processes=1)
        rule, mean = "nnU-Net v2, summary.json", found["foreground_mean"]
        by_class = {metric: [found["mean"][c][metric] for c in range(1, k)] for metric in ("IoU", "Dice")}
        means = {(rule, "mean_iou"): mean["IoU"], (rule, "mean_dice"): mean["Dice"]}
        return {(rule, "iou"): by_class["IoU"], (rule, "dice"): by_class["Dice"]} | means

    return score


def smp() -> Callable[[Pairs, int], Theirs]:
    """segmentation_models_pytorch.metrics.functional: get_stats, iou_score, f1_score."""
    bare_package("segmentation_models_pytorch")
    module = importlib.import_module("segmentation_models_pytorch.metrics.functional")

    def score(pairs: Pairs, k: int) -> Theirs:
        reference, prediction = (torch.as_tensor(np.stack(masks).astype(np.int64)) for masks in zip(*pairs, strict=True))
        stats = module.get_stats(prediction, reference, mode="multiclass", num_classes=k, ignore_index=255)
        pooled = [part.sum(0, keepdim=True) for part in stats]
        found: Theirs = {}
        for field, function in (("iou", module.iou_score), ("dice", module.f1_score)):
            for reduction in ("micro", "macro", "micro-imagewise", "macro-imagewise"):
                found[f"segmentation_models.pytorch 0.6, {reduction}", f"mean_{field}"] = float(function(*stats, reduction=reduction))
            found["segmentation_models.pytorch 0.6, macro-imagewise", field] = function(*stats).mean(0).tolist()
            found["segmentation_models.pytorch 0.6, macro", field] = function(*pooled)[0].tolist()
        return found

    return score


def mmseg() -> Callable[[Pairs, int], Theirs]:
    """mmseg.evaluation.metrics.iou_metric.IoUMetric: process() for the counts, total_area_to_metrics() before it rounds to two decimals."""
    for name in ("mmseg", "mmseg.evaluation", "mmseg.evaluation.metrics"):
        bare_package(name)
    importlib.import_module("mmengine.logging").MMLogger.get_instance("mmengine", log_level="ERROR")  # else a table a call
    metric_class = importlib.import_module("mmseg.evaluation.metrics.iou_metric").IoUMetric

    def score(pairs: Pairs, k: int) -> Theirs:
        metric = metric_class(iou_metrics=["mIoU", "mDice", "mFscore"])
        metric.dataset_meta = {"classes": [str(c) for c in range(k)]}
        tensors = [[torch.as_tensor(mask.astype(np.int64))[None] for mask in pair] for pair in pairs]
        metric.process({}, [{"pred_sem_seg": {"data": guess}, "gt_sem_seg": {"data": truth}} for truth, guess in tensors])
        areas = [sum(image) for image in zip(*metric.results, strict=True)]
        by_class = metric.total_area_to_metrics(*areas, metric.metrics)
        printed = metric.compute_metrics(metric.results)
        for name in ("IoU", "Dice", "Fscore"):
            assert math.isclose(printed[f"m{name}"], 100 * np.nanmean(by_class[name]), abs_tol=0.0051)
        first, second = "MMSegmentation 1.2, mIoU and mDice", "MMSegmentation 1.2, mFscore"
        fields = {"IoU": (first, "iou"), "Dice": (first, "dice"), "Fscore": (second, "dice")}
        classes = {key: by_class[name].tolist() for name, key in fields.items()}
        return classes | {(rule, f"mean_{field}"): float(np.nanmean(by_class[name])) for name, (rule, field) in fields.items()}

    return score


def miseval() -> Callable[[Pairs, int], Theirs]:
    """miseval.evaluate by the names "IoU" and "DSC", averaged over the images here, and "VS", image by image."""
    sys.modules.update(
        {"hausdorff": ModuleType("hausdorff"), "dictances": ModuleType("dictances")}
    )  # its distances need numba; Dice does not
    sys.modules["hausdorff"].hausdorff_distance = None
    evaluate = importlib.import_module("miseval").evaluate

    def score(pairs: Pairs, k: int) -> Theirs:
        valid = [(truth[truth != 255], guess[truth != 255]) for truth, guess in pairs]  # it has no ignore id
        rules = {"IoU": ("MISeval 1.3, IoU", "iou"), "DSC": ("MISeval 1.3, DSC", "dice")}
        found = {
            key: np.mean([evaluate(*pair, metric=name, multi_class=True, n_classes=k) for pair in valid], axis=0).tolist()
            for name, key in rules.items()
        }
        similarity = np.array([evaluate(*pair, metric="VS", multi_class=True, n_classes=k) for pair in valid])
        absent = np.array([[not (truth == c).any() and not (guess == c).any() for c in range(k)] for truth, guess in valid])
        assert (similarity[absent] == 1).all()  # of a class in neither mask it says 1, medseg that it is undefined
        return found | {OWN: np.where(absent, math.nan, similarity).ravel().tolist()}

    return score


LIBRARIES = {"nnunetv2": nnunet, "segmentation_models_pytorch": smp, "mmsegmentation": mmseg, "miseval": miseval}


def random_sets(n: int, seed: int = 0) -> Iterator[tuple[Pairs, int]]:
    """Blocky masks of 2 to 5 classes in 1 to 6 images of any size up to 40 px: classes are absent, missed, invented or found nowhere."""
    generator = np.random.default_rng(seed)
    for _ in range(n):
        k, height, width = int(generator.integers(2, 6)), int(generator.integers(4, 41)), int(generator.integers(4, 41))
        rows, columns = np.arange(height) * 3 // height, np.arange(width) * 3 // width
        pairs = []
        for _ in range(generator.integers(1, 7)):
            there, guessed = (generator.choice(k, size=generator.integers(1, k + 1), replace=False) for _ in range(2))
            reference = generator.choice(there, size=(3, 3))[np.ix_(rows, columns)].astype(np.uint8)
            prediction = generator.choice(guessed, size=(3, 3))[np.ix_(rows, columns)].astype(np.uint8)
            prediction = np.where(generator.random(reference.shape) < 0.5, reference, prediction)
            reference[generator.random(reference.shape) < 0.05] = 255
            pairs.append((reference, prediction % 255))
        yield pairs, k


def ours(pairs: Pairs, k: int) -> dict[str, dict[str, Any]]:
    """rule -> field -> our value; a list over classes where RuleScores has a dict. OWN by the same two names."""
    labels = LabelSet.of(*(f"class {c}" for c in range(1, k)))
    rules, similarity = OtherRules(labels), []
    for pair in pairs:
        confusion_KK = confusion(*pair, labels)
        rules.add(confusion_KK)
        similarity += ratio_table(counts_table(confusion_KK, members(labels)))[:, METRICS.index(OWN[1])].tolist()
    found = {
        s.rule: {"iou": list(s.iou.values()), "dice": list(s.dice.values()), "mean_iou": s.mean_iou, "mean_dice": s.mean_dice}
        for s in rules.results()
    }
    return found | {OWN[0]: {OWN[1]: similarity}}


def distance(found: Any, expected: Any) -> float:
    """Largest difference; NaN against NaN is 0, NaN against a number infinite."""
    found, expected = np.atleast_1d(found).astype(float), np.atleast_1d(expected).astype(float)
    if found.shape != expected.shape or (np.isnan(found) != np.isnan(expected)).any():
        return math.inf
    return float(np.nan_to_num(np.abs(found - expected)).max(initial=0.0))


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--sets", type=int, default=200)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # nanmean of nothing
    libraries, figures = {}, {"sets": options.sets}
    for name, make in LIBRARIES.items():
        try:
            libraries[name] = make()
        except ImportError as problem:
            figures[name] = f"not run: {problem}"
    off: dict[str, dict[str, float]] = {name: {} for name in libraries}
    for pairs, k in random_sets(options.sets):
        mine = ours(pairs, k)
        for name, score in libraries.items():
            for (rule, field), value in score(pairs, k).items():
                key = f"{rule}: {field}"
                off[name][key] = max(off[name].get(key, 0.0), distance(mine[rule][field], value))
    for name, by_key in off.items():
        figures[name] = f"{importlib.metadata.version(name)}, {len(by_key)} numbers, largest difference {max(by_key.values()):.1e}"
    wrong = [f"{key} ({value:.1e})" for by_key in off.values() for key, value in by_key.items() if value > 1e-6]
    figures["disagreements"] = wrong or ("none" if libraries else "nothing was compared")
    command = f"python bench/{Path(__file__).name} --sets {options.sets}"
    tell("The rules of other libraries, against their own code", command, figures, options.record)
    sys.exit(1 if wrong or not libraries else 0)
