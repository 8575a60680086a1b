"""The peer to beat: what a user writes after MONAI's tutorials to segment a folder of photographs.

Dictionary transforms, Dataset, DataLoader, float32, eager; post-processing by MONAI's own transforms, masks written by SaveImage. After
Project-MONAI/tutorials, 2d_segmentation/torch/unet_evaluation_dict.py, with the photograph brought back to its size by Resize. The
network is one of medseg's run, whose weights are in a state dict. It prints one JSON line.

  python monai_predict.py --run RUN --images DIR --out DIR [--workers 0]
"""

import argparse
import json
import time
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import Activations, AsDiscrete, Compose, EnsureChannelFirstd, LoadImaged, Resize, SaveImage, ScaleIntensityRanged

from medseg.run import load_run

parser = argparse.ArgumentParser()
parser.add_argument("--run", required=True)
parser.add_argument("--images", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--workers", type=int, default=0)
args = parser.parse_args()

loaded = load_run(args.run)
network = loaded.model.network
files = [{"image": str(path)} for path in sorted(Path(args.images).iterdir())]
started = time.perf_counter()
transforms = Compose(
    [
        LoadImaged(["image"], reader="PILReader"),
        EnsureChannelFirstd(["image"]),
        ScaleIntensityRanged(["image"], 0, 255, 0.0, 1.0),
    ]
)
shrink, softmax, largest = Resize(tuple(loaded.config.data.size_px), mode="bilinear"), Activations(softmax=True), AsDiscrete(argmax=True)
save = SaveImage(output_dir=args.out, output_ext=".png", output_postfix="", separate_folder=False, print_log=False, resample=False)
network.eval()
with torch.no_grad():
    for batch in DataLoader(Dataset(files, transforms), batch_size=1, num_workers=args.workers):
        for image in decollate_batch(batch["image"]):
            logits = network.logits(shrink(image)[None].as_tensor())
            whole = Resize(tuple(image.shape[1:]), mode="bilinear")(softmax(logits[0]))
            save(largest(whole), meta_data=image.meta)
print(json.dumps({"images": len(files), "seconds": time.perf_counter() - started}))
