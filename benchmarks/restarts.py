"""Is a lineage of short trainings worth one long training? On how the learning rate goes, and on what is judged.

A network is trained from scratch in links of equal length, each of which goes on from the weights of the last one, as
children do in the search. After so many links its validation accuracy is printed for three ways:

1. constant: the learning rate stays at its peak, momentum is handed on, and a moving average of the weights is judged;
   what the search does (`hwnas.executor.Executor.search_recipe`).
2. restarts: the rate falls to zero in each link, and the next begins at the peak again.
3. one run: a single training of the same total length, from scratch.

    python benchmarks/restarts.py --data CIFAR10_FOLDER --images 10000

"""

import argparse
from dataclasses import replace
from statistics import mean

import torch

from hwnas.executor import decay
from latency import Deployment
from objectives.accuracy import evaluate
from objectives.batches import batches
from objectives.data import load_data
from objectives.recipe import Recipe
from objectives.training import train
from spaces.network import Network
from spaces.plain import PlainSpace
from spaces.state import initial_state


def linked(arch, data, recipe, links, constant, seed):
    """Validation accuracy after each link."""
    network = untrained(arch, data, seed)
    momentum, average, accuracies = None, None, []
    per_epoch, _ = batches(len(data.train), recipe.batch_size)
    for link in range(links):
        own = replace(recipe, seed=1000 * seed + link)
        if constant:
            own = replace(own, schedule="constant", ema=decay(recipe.epochs * per_epoch))
        seen = round(link * recipe.epochs * per_epoch)
        run = train(network, data.train, own, momentum=momentum if constant else None, ema=average, seen=seen)
        momentum, average = run.momentum, run.ema
        accuracies.append(evaluate(network, data.val, weights=average).value)
    return accuracies


def whole(arch, data, recipe, epochs, seed):
    """Validation accuracy after one run."""
    network = untrained(arch, data, seed)
    train(network, data.train, replace(recipe, epochs=epochs, seed=seed))
    return evaluate(network, data.val).value


def untrained(arch, data, seed):
    """A network with random weights."""
    return Network(arch, initial_state(arch, seed, mean=list(data.mean), std=list(data.std)).value)


def main():
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images or the name of a data set")
    parser.add_argument("--images", type=int, default=None, help="training images")
    parser.add_argument("--epochs", type=float, default=1.0, help="of a link")
    parser.add_argument("--links", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--width", type=int, default=8, help="channels of the first of three stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--flip", action="store_true", help="mirror images; wrong for digits and text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(options.data, train_limit=options.images)
    arch = PlainSpace(data.shape, len(data.classes)).plain([options.width * 2**stage for stage in range(3)], [1] * 3)
    recipe = Recipe(epochs=options.epochs, flip=options.flip)
    print(f"{Deployment.here().device}, torch {torch.__version__}; {data.name}, {len(data.train)} images, {arch.hash}")
    print(f"validation accuracy %, mean of {len(options.seeds)} seeds, after links of {options.epochs:g} epochs")
    print(f"{'links':<10}" + "".join(f"{links:>8}" for links in options.links))
    for name, constant in (("constant", True), ("restarts", False)):
        runs = [linked(arch, data, recipe, max(options.links), constant, seed) for seed in options.seeds]
        show(name, [mean(run[links - 1] for run in runs) for links in options.links])
    lengths = [links * options.epochs for links in options.links]
    show("one run", [mean(whole(arch, data, recipe, epochs, seed) for seed in options.seeds) for epochs in lengths])


def show(name, accuracies):
    """A line of the table."""
    print(f"{name:<10}" + "".join(f"{100 * accuracy:>8.1f}" for accuracy in accuracies), flush=True)


if __name__ == "__main__":
    main()
