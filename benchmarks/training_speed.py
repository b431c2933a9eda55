"""Is our training loop as fast as one written by hand for one network, and what does a search do beside training?

1. Images a second, in turns: ``train`` on a network of ours, and a plain loop on the same network as torch modules:
   the same augmentation, precision, memory order and optimisers, and nothing else: no checks of the loss, no names, no
   moving average unless --ema. Median of the ratios of --rounds turns, with the smallest and the largest.
2. A search of --minutes with --workers processes: the share of their time that is spent in trials (training and
   validation), and what the rest is, by what the study was doing.

    python benchmarks/training_speed.py --data CIFAR10_FOLDER --images 10000

It runs the same on a GPU, where it prints its name and clocks, and where --batch 512 is of use.
"""

import argparse
import subprocess
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from hwnas.plan import training_device
from latency import Deployment
from objectives.augment import shifted
from objectives.data import Split, load_data
from objectives.fastest import best_precision
from objectives.muon import Muon
from objectives.recipe import Recipe, learning_rate
from objectives.training import train
from spaces.network import Network
from spaces.plain import PlainSpace
from spaces.state import initial_state


def block(inputs, outputs, stride):
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ByHand(nn.Module):
    """A plain chain, such as `PlainSpace.plain` builds, as anybody would write it."""

    def __init__(self, widths, depth, channels, classes, mean, std):
        super().__init__()
        layers = []
        for stage, width in enumerate(widths):
            for place in range(depth):
                layers.append(block(channels, width, 2 if stage and not place else 1))
                channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images):
        """Class scores."""
        return self.head(self.body((images - self.mean) / self.std).mean((2, 3)))


def by_hand(module, split, recipe, device):
    """Train for some epochs; seconds."""
    module = module.to(device, memory_format=torch.channels_last).train()
    count, steps = len(split.labels), len(split.labels) // recipe.batch_size
    images, labels = split.images.to(device), split.labels.to(device)
    filters = [p for p in module.parameters() if p.ndim == 4]
    others = [p for p in module.parameters() if p.ndim != 4]
    sgd = torch.optim.SGD(
        others, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    muon = Muon(dict(enumerate(filters)), recipe.muon_lr / recipe.lr, recipe.momentum, dtype)
    began, total, step = time.perf_counter(), round(recipe.epochs * steps), 0
    for _ in range(-(-total // steps)):
        order = torch.randperm(count, device=device)
        for start in range(0, steps * recipe.batch_size, recipe.batch_size):
            if step == total:
                break
            chosen = order[start : start + recipe.batch_size]
            down, right = torch.randint(-2, 3, (2, len(chosen)), device=device)
            batch = shifted(images[chosen], down, right, torch.rand(len(chosen), device=device) < 0.5)
            batch = batch.contiguous(memory_format=torch.channels_last).float().div_(255)
            sgd.param_groups[0]["lr"] = rate = learning_rate(recipe, (step + 0.5) / total)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                scores = module(batch)
            loss = F.cross_entropy(scores.float(), labels[chosen], label_smoothing=recipe.label_smoothing)
            module.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
            sgd.step()
            muon.step(rate)
            step += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def loops(data, options, device):
    """Both loops in turns, on some chains."""
    space = PlainSpace(data.shape, len(data.classes))
    moments = {"mean": list(data.mean), "std": list(data.std)}
    print(f"\n{'widths, layers a stage':<26}{'parameters':>11}{'ours, images/s':>16}{'by hand':>9}   ratio [range]")
    for widths, depth in (([8, 16, 32], 2), ([16, 32, 64], 2), ([16, 32, 64], 6), ([64, 128, 256], 2)):
        arch = space.plain(widths, [depth] * 3)
        recipe = Recipe(epochs=options.epochs, batch_size=options.batch, flip=True)
        ours = Network(arch, initial_state(arch, **moments).value).to(device)
        hand = ByHand(widths, depth, data.shape[0], len(data.classes), *moments.values())
        if sum(p.numel() for p in ours.parameters()) != sum(p.numel() for p in hand.parameters()):
            raise SystemExit("the two networks differ")
        recipe = Recipe(
            epochs=options.epochs,
            batch_size=options.batch,
            flip=True,
            precision=best_precision(ours, data.train, recipe),
            ema=0.99 if options.ema else None,
        )
        times = []
        for _ in range(options.rounds + 1):
            own = train(ours, data.train, recipe)
            times.append((own.seconds, by_hand(hand, data.train, recipe, device)))
        times = times[1:]  # in the first round everything is new
        seen, graph = own.steps * recipe.batch_size, ", graph" if own.captured else ""
        ratios = sorted(theirs / mine for mine, theirs in times)
        mine, theirs = (median(column) for column in zip(*times, strict=True))
        params = sum(p.numel() for p in ours.parameters())
        print(f"{f'{widths}, {depth}, {recipe.precision}{graph}':<26}{params:>11,}", end="")
        print(f"{seen / mine:>16,.0f}{seen / theirs:>9,.0f}", end="")
        print(f"   {median(ratios):.3f} [{ratios[0]:.3f} {ratios[-1]:.3f}]")


class Watch:
    """Seconds by what is being done; what is done within something else counts for that alone."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self.stack = []

    @contextmanager
    def during(self, what):
        """Count what happens within."""
        began = time.perf_counter()
        self.stack.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.seconds[what] += took - self.stack.pop()
            if self.stack:
                self.stack[-1] += took

    def method(self, owner, name, what):
        """Count a method."""
        plain = getattr(owner, name)

        def counted(*arguments, **options):
            with self.during(what):
                return plain(*arguments, **options)

        setattr(owner, name, counted)


def search(options):
    """Where the time of a search goes."""
    from hwnas.alone import Alone
    from hwnas.costs import Costs
    from hwnas.progress import Quiet
    from hwnas.proxyscores import ProxyScores
    from hwnas.spec import Spec
    from hwnas.store import Store
    from hwnas.strategy import Strategy
    from hwnas.study import Study, load
    from hwnas.workers import Workers
    from latency import LatencyTable

    watch = Watch()
    for owner, name, what in (
        (Strategy, "ask", "proposing"),
        (Costs, "of", "pricing: parameters, MACs, latency"),
        (LatencyTable, "extend", "timing kernels that are new to the table"),
        (ProxyScores, "__call__", "zero-cost proxies"),
        (Store, "tell", "keeping results and weights"),
        (Store, "sweep", "keeping results and weights"),
        (Study, "update", "progress"),
        (Study, "_call", "reading parents"),
        (Workers, "_start", "starting workers"),
        (Workers, "next", "waiting for workers"),
        (Alone, "next", "trials"),
    ):
        watch.method(owner, name, what)
    with tempfile.TemporaryDirectory() as folder:
        spec = Spec().resolve(
            {
                "data.source": options.data,
                "data.train_limit": options.images,
                "budget.time": options.minutes * 60,
                "search.workers": options.workers,
                "threads": 1 if options.workers else None,
            }
        )
        with Store.create(Path(folder) / "run", spec.to_json()) as store:
            study = Study(spec, load(spec), store, Quiet())
            began = time.perf_counter()
            with watch.during("the rest"):
                study.search()
            wall, workers = time.perf_counter() - began, study.plan.workers
            study.close()
            results = [result for _, result in store.trials() if result is not None]
    training = sum(result.seconds for result in results) / workers
    print(f"\nsearch of {wall:.0f} s, {workers} workers of {study.plan.threads} threads, {len(results)} trainings")
    print(f"a worker spends {100 * training / wall:.1f} % of it in trials")
    for what, seconds in sorted(watch.seconds.items(), key=lambda pair: -pair[1]):
        print(f"{100 * seconds / wall:>7.2f} %  {what}")


def main():
    """Parse, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images or the name of a data set")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=float, help="of a turn; by default half of one, and four on a GPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--ema", action="store_true", help="ours with a moving average")
    parser.add_argument("--threads", type=int, default=1, help="of both loops")
    parser.add_argument("--minutes", type=float, default=5.0, help="budget of the search; 0: none")
    parser.add_argument("--workers", type=int, help="of the search; by default as many as there are cores for")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    device = training_device()
    options.epochs = options.epochs or (4.0 if device.type == "cuda" else 0.5)
    name = torch.cuda.get_device_name() if device.type == "cuda" else Deployment.here().device
    print(f"{name}, torch {torch.__version__}, {options.threads} threads, batches of {options.batch}")
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv"]
        print(subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
    data = load_data(options.data, train_limit=options.images)
    if device.type == "cuda":
        from dataclasses import replace

        data = replace(data, train=Split(data.train.images.to(device), data.train.labels.to(device)))
    loops(data, options, device)
    if options.minutes:
        search(options)


if __name__ == "__main__":
    main()
