"""What is a child's head start worth? Its error after some training, with its parent's weights and from scratch.

1. Parents: the networks that the plain space begins with, trained as in a search, from scratch.
2. Children: random moves from them, each kind as often as any other. Each child is trained in links, as a search does:
   the learning rate stays at its peak, a moving average of the weights is judged, each link goes on from the last.
3. The table, by kind of move: the parent's error; the child's, inherited and from scratch, after so many epochs; and
   how many epochs from scratch lead to what one epoch leads to with the parent's weights. Medians over the children.
4. The same for other ways to inherit: momentum thrown away, the teacher left out after approximate moves, the learning
   rate climbing back to its peak over the first quarter of an epoch.

Each child is kept in a file of its own, so that the script can be stopped and started again:

    python benchmarks/children.py --data CIFAR10_FOLDER --images 10000 --moves 50 --out RESULTS

"""

import argparse
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: as many processes run as there are cores

import numpy as np
import torch
from kept import kept, same_settings

from hwnas import tensorfile
from hwnas.executor import Executor
from hwnas.trial import Trial
from latency import Deployment
from latency.deployment import usable_cores
from objectives.data import load_data
from objectives.recipe import Recipe
from spaces.plain import PlainSpace
from spaces.space import seeded
from spaces.state import State, initial_state

LINKS = (0.25, 0.75, 1.0)  # epochs; 2 in all
MORE = (2.0, 4.0)  # from scratch only
VARIANTS = ("inherited", "no momentum", "no teacher", "climbing")


@dataclass(frozen=True)
class Child:
    """One move.

    Attributes:
        parent: Number of the parent.
        kind: Of the move.
        move: As JSON.
        genotype: The child's, as JSON.
        exact: How far the child computes what its parent did.
        seed: Of its training.
    """

    parent: int
    kind: str
    move: dict
    genotype: object
    exact: object
    seed: int


@lru_cache(maxsize=1)
def executor(source, images):
    """What trains, once a process."""
    torch.set_num_threads(1)
    data = load_data(source, train_limit=images)
    space = PlainSpace(data.shape, len(data.classes))
    recipe = Recipe(flip=data.shape[1] >= 32, precision="bf16")
    return Executor(space, data, recipe, "accuracy", torch.device("cpu"))


def trial(space, genotype, seed, **fields):
    """A trial of a network."""
    return Trial(id=1, genotype=space.to_json(genotype), hash=space.hash(genotype), seed=seed, **fields)


def trained_parent(of, epochs, out, place):
    """File of the state of a parent, and its error."""

    def made():
        trains = executor(*of)
        genotype = trains.space.starts()[place]
        outcome = trains.run(trial(trains.space, genotype, place, fidelity_to=epochs))
        return tensorfile.save(out, outcome.state.flat()), outcome.result.values["error"]

    name, error = kept(out / f"parent-{place}.json", made)
    return out / f"{name}{tensorfile.SUFFIX}", error


def linked(trains, child, state, seen, links, teacher=None, climb=False):
    """Errors after each link; the first is without any training. A teacher is for one training, as in a search."""
    genotype = trains.space.from_json(child.genotype)
    arch = trains.space.decode(genotype)
    errors = [trains.judge(arch, state).error]
    for place, epochs in enumerate(links):
        recipe = trains.search_recipe(epochs, child.seed + place)
        if climb and place == 0:
            recipe = replace(recipe, schedule="climb", warmup=0.99)
        further = trial(trains.space, genotype, child.seed, fidelity_from=seen, fidelity_to=seen + epochs)
        outcome = trains.finish(further, arch, state, recipe, teacher=None if place else teacher)
        state, seen = outcome.state, seen + epochs
        errors.append(outcome.result.values["error"])
    return errors


def curves(of, epochs, out, parent, child, place):
    """Errors of a child after each link, by variant, and from scratch."""
    return kept(out / f"child-{place}.json", lambda: measured(executor(*of), epochs, parent, child))


def measured(trains, epochs, parent, child):
    """The same, anew."""
    state = State.from_flat(tensorfile.load(parent))
    before = trial(trains.space, trains.space.starts()[child.parent], child.parent)
    moved = Trial(id=2, genotype=child.genotype, hash="", parent=1, moves=(child.move,), init="parent", seed=child.seed)
    arch, start, teacher = trains.inherited(moved, before, state)
    found = {
        "inherited": linked(trains, child, start, epochs, LINKS, teacher),
        "no momentum": linked(trains, child, replace(start, momentum={}), epochs, LINKS, teacher),
    }
    if teacher is not None:
        found["no teacher"] = linked(trains, child, start, epochs, LINKS)
    found["climbing"] = linked(trains, child, start, epochs, LINKS, teacher, climb=True)
    fresh = initial_state(arch, child.seed, mean=list(trains.data.mean), std=list(trains.data.std))
    return found | {"scratch": linked(trains, child, State(fresh.value), 0.0, (*LINKS, *MORE))}


def drawn(space, parents, count, seed):
    """Children of random parents, each kind of move as often as any other."""
    rng = np.random.default_rng(seed)
    kinds = defaultdict(list)
    for place, parent in enumerate(parents):
        for move in space.moves(parent):
            kinds[type(move).__name__].append((place, move))
    names, found = sorted(kinds), []
    while len(found) < count:
        kind = names[len(found) % len(names)]
        place, move = kinds[kind][rng.integers(len(kinds[kind]))]
        move = seeded(move, int(rng.integers(2**31)))
        child = space.apply(parents[place], move)
        if space.refusal(child.genotype) is None:
            genotype = space.to_json(child.genotype)
            found.append(Child(place, kind, move.to_json(), genotype, child.exact, int(rng.integers(2**31))))
    return found


def epochs_to(errors, links, aim):
    """Epochs until an error is reached, interpolated; infinite where it is not.

    >>> epochs_to([0.5, 0.25], [1.0], 0.375), epochs_to([0.5, 0.25], [1.0], 0.6), epochs_to([0.5, 0.25], [1.0], 0.1)
    (0.5, 0.0, inf)
    """
    if errors[0] <= aim:
        return 0.0
    seen = np.cumsum([0.0, *links])
    for place in range(1, len(errors)):
        if errors[place] <= aim:
            share = (errors[place - 1] - aim) / (errors[place - 1] - errors[place])
            return float(seen[place - 1] + share * (seen[place] - seen[place - 1]))
    return float("inf")


def main():
    """Train, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images or the name of a data set")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--moves", type=int, default=50)
    parser.add_argument("--epochs", type=float, default=4.0, help="that parents have been trained for")
    parser.add_argument("--largest", type=float, default=12e6, help="multiply-accumulates of the largest parent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    options = parser.parse_args()

    from objectives import cost

    of = (options.data, options.images)
    space = executor(*of).space
    starts = [one for one in space.starts() if cost.macs(one) <= options.largest]
    children = drawn(space, starts, options.moves, options.seed)
    drawn_by = {name: getattr(options, name) for name in ("data", "images", "moves", "epochs", "largest", "seed")}
    same_settings(options.out, **drawn_by)
    with ProcessPoolExecutor(options.jobs) as pool:
        parents = list(pool.map(partial(trained_parent, of, options.epochs, options.out), range(len(starts))))
        tasks = partial(curves, of, options.epochs, options.out)
        found = list(pool.map(tasks, [parents[child.parent][0] for child in children], children, range(len(children))))
    print(f"{Deployment.here().device}, torch {torch.__version__}; {options.images} images, {len(children)} moves")
    report(children, [error for _, error in parents], found)


def report(children, parents, found):
    """By kind of move, and all; then the other ways to inherit."""
    groups = defaultdict(list)
    for child, one in zip(children, found, strict=True):
        row = (parents[child.parent], one)
        groups[child.kind].append(row)
        groups["exact" if child.exact is not None else "approximate"].append(row)
        groups["all"].append(row)
    moments = np.cumsum([0.0, *LINKS])
    head = "".join(f"{moment:>7g}" for moment in moments)
    print(f"\nerror in %, medians{'':12}parent   inherited, after epochs{'':11}from scratch")
    print(f"{'':17}{'n':>3}{'':9}{head}  {head}  epochs from scratch for one inherited")
    for name, rows in sorted(groups.items(), key=lambda pair: (pair[0].islower(), pair[0])):
        cells = [median(parent for parent, _ in rows)]
        cells += [median(one["inherited"][i] for _, one in rows) for i in range(len(moments))]
        cells += [median(one["scratch"][i] for _, one in rows) for i in range(len(moments))]
        text = "".join(f"{100 * cell:>7.1f}" for cell in cells)
        needed = median(epochs_to(one["scratch"], (*LINKS, *MORE), one["inherited"][2]) for _, one in rows)
        longest = sum((*LINKS, *MORE))
        print(f"{name:<17}{len(rows):>3}{text}   {f'over {longest:g}' if needed > longest else f'{needed:.1f}'}")
    for variant in ("inherited", "no teacher"):
        back = [epochs_to(one[variant], LINKS, parent) for parent, one in groups["approximate"] if variant in one]
        if back:
            print(f"approximate moves, {variant}: after {median(back):.2f} epochs (median) as good as the parent")
    print("\nmean difference of the error to what is inherited, in points [standard error], after epochs")
    print(f"{'':14}{'n':>3}" + "".join(f"{moment:>16g}" for moment in moments[1:]))
    for variant in VARIANTS[1:]:
        pairs = [one for one in found if variant in one]
        if pairs:
            gaps = 100 * np.array([np.subtract(one[variant], one["inherited"])[1:] for one in pairs])
            errors = gaps.std(0, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.zeros(len(LINKS))
            cells = [f"{mean:+.2f} [{error:.2f}]" for mean, error in zip(gaps.mean(0), errors, strict=True)]
            print(f"{variant:14}{len(pairs):>3}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
