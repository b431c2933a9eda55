"""How good is the training recipe by itself? Two networks of fixed shape, at stated budgets, and what each trick adds.

1. ResNet-20 (He et al. 2016; 0.27 million parameters) and a plain chain of 0.48 million, trained for each of --epochs
   by the default recipe, by Nesterov's method alone (its learning rate swept at the smallest budget, on the first
   seed), and by the default recipe with one thing changed.
2. Accuracy on the whole test split, mean over --seeds; seconds an epoch, of one core each, --jobs at once.

Each training is kept in a file of its own, so that the script can be stopped and started again:

    python benchmarks/recipe.py --data CIFAR10_FOLDER --images 10000 --epochs 8 --out RESULTS
    python benchmarks/recipe.py --data CIFAR10_FOLDER --images 10000 --epochs 8 32 --changes default --out RESULTS

Where there is a GPU it trains on that, one at a time: use all images, and `--images 50000 --epochs 16 64 200`.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: as many processes run as there are cores

import torch
import torch.nn.functional as F
from kept import kept, same_settings
from torch import nn

from hwnas.plan import training_device
from latency import Deployment
from latency.deployment import usable_cores
from objectives.accuracy import evaluate
from objectives.data import Split, load_data
from objectives.recipe import Recipe
from objectives.training import train
from spaces.network import Network
from spaces.plain import PlainSpace
from spaces.state import initial_state

NETWORKS = ("resnet-20", "plain-0.5M")
RATES = (0.3, 0.6, 1.2)
NESTEROV = {"muon_lr": None, "momentum": 0.9}
WHITENED = "whitened first layer"
CHANGES = {
    "default": {},
    WHITENED: {},
    "cutout": {"cutout": 0.375},
    "moving average": {"ema": 0.99},
    "no label smoothing": {"label_smoothing": 0.0},
    "no shifts": {"shift": 0.0},
}


class Block(nn.Module):
    """Two convolutions and a shortcut, which is padded with zeros where the width grows (option A of the paper)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        """Features."""
        y = F.relu(self.norms[0](self.first(x)))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(self.norms[1](self.second(y)) + shortcut)


class ResNet20(nn.Module):
    """For images of about 32 x 32."""

    def __init__(self, data):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(data.shape[0], 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks, inputs = [], 16
        for width in (16, 32, 64):
            for place in range(3):
                blocks.append(Block(inputs, width, 2 if inputs < width and place == 0 else 1))
                inputs = width
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(64, len(data.classes))
        self.register_buffer("mean", torch.tensor(data.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(data.std)[:, None, None])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images):
        """Class scores."""
        return self.head(self.body(self.stem((images - self.mean) / self.std)).mean((2, 3)))


def built(name, data, seed):
    """A network with random weights."""
    torch.manual_seed(seed)
    if name == "resnet-20":
        return ResNet20(data)
    arch = PlainSpace(data.shape, len(data.classes)).plain([32, 64, 128], [3] * 3)
    return Network(arch, initial_state(arch, seed, mean=list(data.mean), std=list(data.std)).value)


@torch.no_grad()
def whiten(module, images):
    """The first filters become the principal directions of the images' patches, each with both signs.

    The norm behind them makes every output as large as the others, which is what whitening is (Page, "How to train
    your ResNet", 2019); filters beyond twice the number of directions stay random.
    """
    first = next(one for one in module.modules() if getattr(one, "weight", torch.empty(0)).ndim == 4)
    side, rows = first.weight.shape[-1], first.weight.flatten(1).clone()
    patches = F.unfold(images.float() / 255, side).transpose(1, 2).flatten(0, 1)
    _, directions = torch.linalg.eigh(patches.T.cov())
    directions = directions.T.flip(0)[: (len(rows) + 1) // 2]
    signed = torch.cat([directions, -directions])[: len(rows)]
    rows[: len(signed)] = signed * rows[: len(signed)].norm(dim=1, keepdim=True)
    first.weight.copy_(rows.view_as(first.weight))


@lru_cache(maxsize=1)
def loaded(source, images):
    """The data, once a process; on the GPU, where there is one."""
    torch.set_num_threads(1)
    data = load_data(source, train_limit=images)
    device = training_device()
    train, test = (Split(one.images.to(device), one.labels.to(device)) for one in (data.train, data.test))
    return replace(data, train=train, test=test)


def trained(options, name, label, changes, epochs, seed):
    """Test accuracy and seconds an epoch of one training; from its file if it has been done."""

    def made():
        data = loaded(options.data, options.images)
        module = built(name, data, seed).to(training_device())
        if label == WHITENED:
            whiten(module, data.train.images[:2000])
        recipe = Recipe(epochs=epochs, seed=seed, flip=data.shape[1] >= 32, precision=options.precision, **changes)
        run = train(module, data.train, recipe)
        return evaluate(module, data.test, weights=run.ema).value, run.seconds / run.epochs

    return kept(options.out / f"{name}-{label.replace(' ', '_')}-{epochs:g}-{seed}.json", made)


def several(pool, options, jobs):
    """Results of some trainings, in order."""
    return list(pool.map(partial(trained, options), *zip(*jobs, strict=True))) if jobs else []


def main():
    """Train, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images or the name of a data set")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=float, nargs="+", default=[8.0, 32.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--changes", nargs="*", default=list(CHANGES), choices=list(CHANGES), help="of the recipe")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--jobs", type=int, default=1 if torch.cuda.is_available() else usable_cores())
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    options = parser.parse_args()
    same_settings(options.out, data=options.data, images=options.images, precision=options.precision)

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else Deployment.here().device
    data = loaded(options.data, options.images)
    print(f"{device}, torch {torch.__version__}, {options.precision}, {options.jobs} at once")
    print(f"{len(data.train)} training images, {len(data.test)} test images, seeds {options.seeds}")
    # Spawned, since a process with a GPU cannot be forked.
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for name in NETWORKS:
            params = sum(p.numel() for p in built(name, data, 0).parameters())
            print(f"\n{name}, {params:,} parameters: test accuracy in %, mean [each seed]")
            least, first = min(options.epochs), options.seeds[0]
            swept = [(name, f"nesterov {rate:g}", {**NESTEROV, "lr": rate}, least, first) for rate in RATES]
            found = several(pool, options, swept)
            print("Nesterov's method, by learning rate: ", end="")
            print(", ".join(f"{rate:g}: {100 * value:.1f}" for rate, (value, _) in zip(RATES, found, strict=True)))
            best = max(range(len(RATES)), key=lambda place: found[place][0])
            arms = {swept[best][1]: swept[best][2], **{label: CHANGES[label] for label in options.changes}}
            print(f"{'':22}" + "".join(f"{f'{epochs:g} epochs':>24}" for epochs in options.epochs) + "   s / epoch")
            every = [(epochs, seed) for epochs in options.epochs for seed in options.seeds]
            jobs = [(name, label, changes, *one) for label, changes in arms.items() for one in every]
            results = dict(zip([(job[1], job[3], job[4]) for job in jobs], several(pool, options, jobs), strict=True))
            for label in arms:
                cells = []
                for epochs in options.epochs:
                    values = [100 * results[label, epochs, seed][0] for seed in options.seeds]
                    cells.append(f"{mean(values):.1f} [{' '.join(f'{value:.1f}' for value in values)}]")
                pace = mean(results[label, *one][1] for one in every)
                print(f"{label:<22}" + "".join(f"{cell:>24}" for cell in cells) + f"{pace:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
