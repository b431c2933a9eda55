"""What a morphism costs, and how near an approximate one starts: three tables, on one thread of the CPU.

1. Seconds to propose children from a dozen parents, and to score them on parameters, MACs and peak memory.
2. Milliseconds to write a network to ONNX.
3. For approximate moves on networks trained on scikit-learn's digits: how far the child's logits are from its parent's,
   |child - parent| / |parent| over all test images, and the test accuracy before and after, without any training; with
   the parent's batch-norm statistics ("eval"), and with those of the test images themselves ("batch"), as the first
   training step sees them. Factors and channels taken at random show what rank 1 and importance are worth.

    python benchmarks/morphisms.py
"""

import argparse
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import mean, median
from typing import TypeVar

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from objectives.cost import macs, params, peak_memory
from spaces.arch import Arch
from spaces.channels import axes, segment_at
from spaces.morphism import Morphism
from spaces.morphisms import (
    Prune,
    RemoveLayer,
    RemoveSkip,
    Separate,
    ShrinkKernel,
    SkipIdentity,
)
from spaces.network import Network
from spaces.onnx import to_onnx
from spaces.plain import PlainSpace
from spaces.rewrite import Rewrite, remap
from spaces.state import State, Tensors, initial_state

M = TypeVar("M", bound=Morphism)


def main() -> None:
    """Runs what is asked for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=1000, help="children to propose (default %(default)s)")
    parser.add_argument("--nets", type=int, default=16, help="networks to train on digits (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="epochs each is trained (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}, seed {options.seed}\n")
    parents = grown(PlainSpace((3, 32, 32), 10), 12, options.seed)
    proposals(parents, options.children, options.seed)
    writing(parents)
    nearness(options.nets, options.epochs, options.seed)


# Speed ----------------------------------------------------------------------------------------------------------------


def grown(space: PlainSpace, count: int, seed: int) -> list[Arch]:
    """Networks as they stand in an archive: random ones after 10 to 20 further moves."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        arch = space.sample(rng)
        for _ in range(rng.integers(10, 21)):
            proposed = space.propose(arch, rng)
            arch = proposed[1].genotype if proposed else arch
        found.append(arch)
    return found


def proposals(parents: list[Arch], count: int, seed: int) -> None:
    """Prints table 1. The space is a new one and the parents are copies, so that nothing has been cached."""
    space = PlainSpace((3, 32, 32), 10, max_depth=100)
    parents = [Arch(parent.nodes) for parent in parents]
    axes.cache_clear()
    rng = np.random.default_rng(seed)
    sizes = sorted(len(parent.nodes) for parent in parents)
    print(
        f"{count} children of {len(parents)} parents of {sizes[0]} to {sizes[-1]} nodes (median {median(sizes):.0f})\n"
    )

    children: list[Arch] = []

    def propose() -> None:
        while len(children) < count:
            proposed = space.propose(parents[rng.integers(len(parents))], rng)
            if proposed is not None:
                children.append(proposed[1].genotype)

    steps: dict[str, Callable[[], object]] = {
        "every parent's moves": lambda: [space.moves(parent) for parent in parents],
        "propose": propose,
        "params": lambda: [params(child) for child in children],
        "macs": lambda: [macs(child) for child in children],
        "peak memory": lambda: [peak_memory(child) for child in children],
        "hash": lambda: [child.hash for child in children],
    }
    rows = []
    for name, step in steps.items():
        start = time.process_time()
        step()
        rows.append((name, time.process_time() - start))
    rows.append(("in all", sum(seconds for _, seconds in rows)))
    table(("step", "CPU seconds"), [(name, f"{seconds:.2f}") for name, seconds in rows])


def writing(parents: list[Arch]) -> None:
    """Prints table 2: CPU time, the quickest of five."""
    rows = []
    for arch in sorted(parents, key=params):
        value = initial_state(arch).value
        times = []
        for _ in range(5):
            start = time.process_time()
            size = len(to_onnx(arch, value).SerializeToString())
            times.append(time.process_time() - start)
        rows.append((len(arch.nodes), f"{params(arch):,}", f"{size / 1e6:.2f}", f"{1e3 * min(times):.1f}"))
    table(("nodes", "params", "MB", "ms to write"), rows)


# Nearness -------------------------------------------------------------------------------------------------------------


def nearness(count: int, epochs: int, seed: int) -> None:
    """Prints table 3."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float()[:, None]
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[:1200], order[1200:]

    found = defaultdict(list)
    for number, (arch, state) in enumerate(trained(count, epochs, seed, images[train], labels[train])):
        parent = {mode: logits(arch, state.value, images[test], mode) for mode in ("eval", "batch")}
        for name, child, moved in starts(arch, state, np.random.default_rng([seed, number])):
            measured = [correct(parent["eval"], labels[test])]
            for mode, expected in parent.items():
                scores = logits(child, moved, images[test], mode)
                distance = (scores - expected).norm() / expected.norm()
                measured += [distance.item(), correct(scores, labels[test])]
            found[name].append(measured)
    print(f"{count} networks trained {epochs} epochs on 1,200 digits, judged on the other {len(test)}\n")
    rows = []
    for name, measured in found.items():
        before, far, after, far_batch, after_batch = zip(*measured, strict=True)
        accuracies = (mean(before), mean(after), mean(after_batch))
        distances = (median(far), median(far_batch))
        rows.append((name, len(measured), *(f"{value:.3f}" for value in (*distances, *accuracies))))
    table(("move", "n", "distance eval", "batch", "accuracy before", "after, eval", "batch"), rows)


def trained(count: int, epochs: int, seed: int, images: Tensor, labels: Tensor) -> Iterator[tuple[Arch, State]]:
    """Networks of a small plain space, trained by SGD with Nesterov momentum and a cosine schedule."""
    space = PlainSpace((1, 8, 8), 10, stages=2, max_width=48)
    rng = np.random.default_rng(seed)
    for number in range(count):
        arch = space.sample(rng)
        network = Network(arch, initial_state(arch, number).value).train()
        optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        batches = [batch for _ in range(epochs) for batch in torch.randperm(len(labels)).split(64)]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(batches))
        for batch in batches:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimiser.step()
            schedule.step()
        yield arch, State(network.tensors())


def starts(arch: Arch, state: State, rng: np.random.Generator) -> Iterator[tuple[str, Arch, Tensors]]:
    """Children of a network: up to three moves of each kind, and the same with factors or channels taken at random."""
    half = [move for move in moves(arch, Prune, rng) if axes(arch)[move.node][move.position].size == 2 * move.by]
    for move in half[:3]:
        segment = segment_at(arch, move.node, move.position)
        kept = sorted(rng.choice(segment.size, segment.size - move.by, replace=False).tolist())
        yield "Prune half, by importance", *applied(move.apply(arch), state)
        yield "Prune half, at random", *applied(remap(arch, segment, kept), state)
    for move in moves(arch, Separate, rng)[:3]:
        child = move.apply(arch)
        value = child.transfer(state).value
        fresh = initial_state(child.arch, int(rng.integers(2**31))).value
        factors = {key for key in value if key.partition(".")[0] in child.new and key.endswith(".weight")}
        yield "Separate, rank 1", child.arch, value
        yield "Separate, at random", child.arch, {key: (fresh if key in factors else value)[key] for key in value}
    for kind in (ShrinkKernel, RemoveLayer, RemoveSkip, SkipIdentity):
        for move in moves(arch, kind, rng)[:3]:
            yield kind.__name__, *applied(move.apply(arch), state)


def moves(arch: Arch, kind: type[M], rng: np.random.Generator) -> list[M]:
    """All moves of a kind in the small space, shuffled."""
    found = [move for move in PlainSpace((1, 8, 8), 10, stages=2).moves(arch) if isinstance(move, kind)]
    rng.shuffle(found)
    return found


def applied(child: Rewrite, state: State) -> tuple[Arch, Tensors]:
    """The child and its tensors."""
    return child.arch, child.transfer(state).value


@torch.no_grad()
def logits(arch: Arch, tensors: Tensors, images: Tensor, mode: str) -> Tensor:
    """Class scores by the statistics of training, or by those of the batch."""
    return Network(arch, tensors).train(mode == "batch")(images)


def correct(scores: Tensor, labels: Tensor) -> float:
    """Accuracy."""
    return (scores.argmax(1) == labels).float().mean().item()


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Prints a table in Markdown."""
    for row in (head, ("---",) * len(head), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


if __name__ == "__main__":
    main()
