"""The peer to beat on volumes: what a user writes today after MONAI's own 3-D segmentation tutorial.

The recipe is spleen_segmentation_3d (Project-MONAI/tutorials, 3d_segmentation): dictionary transforms, CacheDataset, DataLoader,
RandCropByPosNegLabeld with four patches a volume, residual UNet, DiceLoss, Adam, float32, eager; one flat script. What an MR of the
hippocampus needs otherwise: NormalizeIntensityd for the CT window, and padding, because a volume may be smaller than a patch.
Augmentation is that of medseg's volumes in kind: rotation, scale, brightness, contrast, noise; no mirror, left and right differ.

  python bench/peer_organ.py --data-root DIR [--steps 60] [--batch 8] [--patch 40 56 40] [--threads 2]

DIR holds imagesTr/, labelsTr/ and split.csv (sample,split). The cache is full before the clock starts, and WARM_UP steps are not
counted. The last line is one JSON object; --tell prints a line a step besides, for bench/turns.py.
"""

import argparse
import csv
import json
import os
import time

import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceLoss
from monai.networks.layers import Norm
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Spacingd,
    SpatialPadd,
)
from monai.utils import set_determinism

CHANNELS, STRIDES, RES_UNITS = (32, 64, 128, 256), (2, 2, 2), 2
CLASSES = 3
SPACING_MM = (1.0, 1.0, 1.0)
SAMPLES = 4  # patches of a volume, as in the tutorial
LEARNING_RATE = 1e-4
WARM_UP = 5

parser = argparse.ArgumentParser()
parser.add_argument("--data-root", required=True)
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--batch", type=int, default=8, help="patches a step")
parser.add_argument("--patch", type=int, nargs=3, default=[40, 56, 40], help="voxels along x, y, z")
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--limit", type=int, default=0, help="use the first N training volumes only")
parser.add_argument("--tell", action="store_true", help="print a line a step")
args = parser.parse_args()
if args.batch % SAMPLES:
    parser.error(f"--batch must be a multiple of {SAMPLES}, the patches of a volume")

torch.set_num_threads(args.threads)
set_determinism(0)
with open(os.path.join(args.data_root, "split.csv"), newline="") as stream:
    names = [row["sample"] for row in csv.DictReader(stream) if row["split"] == "train"][: args.limit or None]
folders = {"image": "imagesTr", "label": "labelsTr"}
items = [{key: os.path.join(args.data_root, folder, f"{name}.nii.gz") for key, folder in folders.items()} for name in names]

keys, modes = ["image", "label"], ("bilinear", "nearest")
load = [
    LoadImaged(keys),
    EnsureChannelFirstd(keys),
    Orientationd(keys, axcodes="RAS"),
    Spacingd(keys, pixdim=SPACING_MM, mode=modes),
    CropForegroundd(keys, source_key="image"),
    NormalizeIntensityd("image", nonzero=True),
    SpatialPadd(keys, spatial_size=args.patch),
]
augment = [
    RandCropByPosNegLabeld(keys, label_key="label", spatial_size=args.patch, pos=1, neg=1, num_samples=SAMPLES),
    RandAffined(keys, prob=0.5, rotate_range=(0.26, 0.26, 0.26), scale_range=(0.15, 0.15, 0.15), mode=modes, padding_mode="zeros"),
    RandScaleIntensityd("image", factors=0.25, prob=0.5),
    RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    RandGaussianNoised("image", prob=0.15, std=0.1),
]
started = time.perf_counter()
train_set = CacheDataset(items, Compose([*load, *augment]), cache_rate=1.0, progress=False)
cache_s = time.perf_counter() - started
volumes = args.batch // SAMPLES
loader = DataLoader(
    train_set, batch_size=volumes, shuffle=True, drop_last=True, num_workers=args.workers, persistent_workers=args.workers > 0
)


def batches():
    while True:
        yield from loader


device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
net = UNet(3, 1, CLASSES, channels=CHANNELS, strides=STRIDES, num_res_units=RES_UNITS, norm=Norm.INSTANCE).to(device)
loss_function = DiceLoss(to_onehot_y=True, softmax=True)
optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
net.train()
seen, losses = 0, []
for step, batch in zip(range(WARM_UP + args.steps), batches()):  # noqa: B905
    if step == WARM_UP:
        seen, started = 0, time.perf_counter()
    optimizer.zero_grad()
    loss = loss_function(net(batch["image"].to(device)), batch["label"].to(device))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    seen += len(batch["image"])
    if args.tell:
        print("step", flush=True)
train_s = time.perf_counter() - started
print(
    json.dumps(
        {
            "patches_per_s": round(seen / train_s, 3),
            "ms_per_step": round(1000 * train_s / args.steps, 1),
            "steps": args.steps,
            "batch": args.batch,
            "patch": args.patch,
            "threads": args.threads,
            "workers": args.workers,
            "volumes": len(names),
            "cache_s": round(cache_s, 2),
            "loss": round(sum(losses[-10:]) / len(losses[-10:]), 4),
            "parameters": sum(p.numel() for p in net.parameters()),
            "torch": torch.__version__,
        }
    )  # fmt: skip
)
