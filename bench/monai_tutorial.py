"""The peer to beat: what a user writes today after MONAI's own 2-D segmentation tutorial.

Dictionary transforms, CacheDataset, DataLoader, UNet, DiceLoss, Adam, float32, eager; one flat script. It is written for this
project as a yardstick and follows the tutorial's recipe (Project-MONAI/tutorials, 2d_segmentation/torch/unet_training_dict.py)
with the seed's letterbox-free resize. It prints one JSON line an epoch, then one for the test split.

  python monai_tutorial.py --pairs pairs.csv --root DIR --classes 2 --size 256 --batch 8 --epochs 3
  python monai_tutorial.py --pairs pairs.csv --root DIR --minutes 5 10 20       instead: scores val after so many minutes of training

pairs.csv has the columns image,mask,split (train / val / test), paths relative to --root; masks hold class ids.
"""

import argparse
import json
import os
import time

import numpy as np
import pandas as pd
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandRotated,
    RandZoomd,
    Resized,
)
from monai.utils import set_determinism

parser = argparse.ArgumentParser()
parser.add_argument("--pairs", required=True)
parser.add_argument("--root", required=True)
parser.add_argument("--classes", type=int, default=2)
parser.add_argument("--size", type=int, default=256)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--steps", action="store_true", help="print a line a step")
parser.add_argument("--minutes", type=float, nargs="*", default=[])
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--limit", type=int, default=0, help="use the first N training images only")
args = parser.parse_args()

set_determinism(0)
pairs = pd.read_csv(args.pairs)


def items(split):
    rows = pairs[pairs.split == split]
    return [{"image": os.path.join(args.root, r.image), "label": os.path.join(args.root, r.mask)} for r in rows.itertuples()]


keys, modes = ["image", "label"], ["bilinear", "nearest"]
load = [
    LoadImaged(keys, reader="PILReader"),
    EnsureChannelFirstd(keys),
    Resized(keys, (args.size, args.size), mode=modes),
    NormalizeIntensityd("image", channel_wise=True),
]
augment = [
    RandFlipd(keys, prob=0.5, spatial_axis=0),
    RandRotated(keys, range_x=0.35, prob=0.5, mode=modes, padding_mode="border"),
    RandZoomd(keys, min_zoom=0.8, max_zoom=1.25, prob=0.5, mode=modes, padding_mode="edge"),
    RandAdjustContrastd("image", prob=0.3),
    RandGaussianNoised("image", prob=0.3, std=0.1),
]
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
train_items = items("train")[: args.limit or None]
started = time.perf_counter()
train_set = CacheDataset(train_items, Compose([*load, *augment, EnsureTyped(keys)]), progress=False)
train_loader = DataLoader(train_set, batch_size=args.batch, shuffle=True, num_workers=args.workers, drop_last=True)
cache_s = time.perf_counter() - started

net = UNet(2, 3, args.classes, channels=(32, 64, 128, 256, 512), strides=(2, 2, 2, 2), num_res_units=2).to(device)
loss_function = DiceLoss(softmax=True, to_onehot_y=True)
optimizer = torch.optim.Adam(net.parameters(), 1e-3)


def scores(split):
    """On the original pixel grid."""
    net.eval()
    original = Compose([LoadImaged("label", reader="PILReader"), EnsureChannelFirstd("label")])
    test_load = Compose(load)
    counts, ious = np.zeros((args.classes, 3), np.int64), []
    with torch.no_grad():
        for item in items(split):
            image = test_load(dict(item))["image"][None].to(device)
            truth = original(dict(item))["label"][0].long()
            logits = torch.nn.functional.interpolate(net(torch.as_tensor(image)), size=tuple(truth.shape), mode="bilinear")
            predicted = logits.argmax(1)[0].cpu()
            case = []
            for k in range(args.classes):
                p, t = predicted == k, truth == k
                case.append((int((p & t).sum()), int((p & ~t).sum()), int((~p & t).sum())))
            counts += np.array(case)
            tp, fp, fn = case[1]
            ious.append(tp / (tp + fp + fn) if tp + fp + fn else float("nan"))
    net.train()
    tp, fp, fn = counts.T
    return {
        "iou_pooled": (tp / np.maximum(tp + fp + fn, 1)).tolist(), "recall_pooled": (tp / np.maximum(tp + fn, 1)).tolist(),
        "precision_pooled": (tp / np.maximum(tp + fp, 1)).tolist(), "iou_per_image_class1": float(np.nanmean(ious)),
    }  # fmt: skip


started, seen, scoring_s = time.perf_counter(), 0, 0.0
minutes = sorted(args.minutes)
for epoch in range(args.epochs if not minutes else 10**6):
    net.train()
    epoch_start, losses = time.perf_counter(), []
    for batch in train_loader:
        optimizer.zero_grad()
        loss = loss_function(net(batch["image"].to(device)), batch["label"].to(device))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seen += len(batch["image"])
        if args.steps:
            print("step", flush=True)
        if minutes and time.perf_counter() - started - scoring_s >= 60 * minutes[0]:
            before = time.perf_counter()
            print(json.dumps({"minutes": minutes.pop(0), "images": seen, **scores("val")}), flush=True)
            scoring_s += time.perf_counter() - before
            if not minutes:
                raise SystemExit
    epoch_s = time.perf_counter() - epoch_start
    print(
        json.dumps(
            {"epoch": epoch, "loss": float(np.mean(losses)), "epoch_s": epoch_s, "images_per_s": len(losses) * args.batch / epoch_s}
        ),
        flush=True,
    )
train_s = time.perf_counter() - started

started = time.perf_counter()
found = scores("test")
print(
    json.dumps(
        {
            "cache_s": cache_s,
            "train_s": train_s,
            "train_images_per_s": seen / train_s,
            "test_s": time.perf_counter() - started,
            **found,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
    )
)
