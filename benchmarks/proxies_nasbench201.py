"""Do zero-cost proxies rank the networks of NAS-Bench-201 as their accuracy after 200 epochs does?

Random networks with their published accuracies; the images are real, and no network is trained. The rank correlations
are Kendall's tau and Spearman's rho with bootstrap intervals of 95 %, beside those of other implementations' scores of
the same networks if a file of them is given (NAS-Bench-Suite-Zero). The ensemble is the sum of the logarithms of the
ranks by the default pair.

    python benchmarks/proxies_nasbench201.py --data CIFAR --accuracy accuracy.parquet --n 300 --json OUT

Add --reference zerocost_cifar10.parquet to have those of NAS-Bench-Suite-Zero beside them.

The default pair and naswot are computed for all --n networks, which takes a core some ten minutes, the others for the
first --rest of them. Seconds are of each proxy alone, on one core, for the dearest network of the space. The files are
read with pyarrow: pip install -e ".[bench]".
"""

import argparse
import json
import math
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: as many processes run as there are cores

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau, spearmanr

from latency.deployment import usable_cores
from objectives.batches import few
from objectives.data import load_data
from objectives.probe import Probe
from objectives.proxies import DEFAULT, PROXIES, log_ranks, scores
from spaces.cellspace import CellSpace
from spaces.state import initial_state
from spaces.wholefile import write_whole

MANY = (*DEFAULT, "naswot")
DEAREST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
#: Columns of the reference that have other names; "failed" is its value for what could not be computed.
REFERENCE, FAILED = {"naswot": "nwot", "macs": "flops"}, -1e8
RESAMPLES = 1000


def probe(genotype, space, moments, batch):
    """A probe of one network with random weights."""
    arch = space.decode(genotype)
    return Probe(arch, initial_state(arch, 0, **moments).value, *batch)


def row(of, task):
    """Some proxies of one network, by name."""
    genotype, names = task
    torch.set_num_threads(1)
    return scores(probe(genotype, *of), names)


def seconds(of, runs):
    """Seconds of each proxy alone, median of some runs."""
    found = {}
    for name in PROXIES:
        times = []
        for _ in range(runs):
            fresh = probe(DEAREST, *of)
            began = time.perf_counter()
            PROXIES[name](fresh)
            times.append(time.perf_counter() - began)
        found[name] = statistics.median(times)
    return found


def correlations(values, accuracy):
    """Kendall and Spearman, and Kendall's interval."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    draws = rng.integers(len(values), size=(RESAMPLES, len(values)))
    resampled = [kendalltau(values[draw], accuracy[draw]).statistic for draw in draws]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])  # NaN where a resample is all ties
    return {
        "kendall": float(kendalltau(values, accuracy).statistic),
        "spearman": float(spearmanr(values, accuracy).statistic),
        "interval": [float(low), float(high)],
        "n": len(values),
    }


def finite(values):
    """Minus infinity as something below all others, which ranks the same."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(values == -math.inf, np.min(values[values > -math.inf], initial=0) - 1, values)


def reference_of(name, table):
    """Scores of another implementation, or None."""
    if table is None:
        return None
    if name == "ensemble":
        return log_ranks({one: finite(table[one].replace(FAILED, -math.inf)) for one in DEFAULT})
    column = REFERENCE.get(name, name)
    return finite(table[column].replace(FAILED, -math.inf)) if column in table else None


def drawn(accuracy, space, options):
    """Random rows whose network depends on its input, and, if there is a reference, with a row in that."""
    reference = None if options.reference is None else pd.read_parquet(options.reference).set_index("arch_index")
    rows = accuracy if reference is None else accuracy.loc[accuracy.index.intersection(reference.index)]
    order = np.random.default_rng(options.seed).permutation(rows.index)
    chosen = [index for index in order if space.refusal(rows.loc[index].arch_str) is None][: options.n]
    return rows.loc[chosen], None if reference is None else reference.loc[chosen]


def main():
    """Parse, compute, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10 as a folder of images, or the name of a data set")
    parser.add_argument("--accuracy", type=Path, required=True, help="parquet with arch_index, arch_str, accuracies")
    parser.add_argument("--column", default="c10_test_200", help="of the accuracies")
    parser.add_argument("--reference", type=Path, help="parquet with arch_index and scores by others")
    parser.add_argument("--n", type=int, default=300, help="networks")
    parser.add_argument("--rest", type=int, default=100, help="networks for proxies other than the most important")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--seed", type=int, default=0, help="of networks and images")
    parser.add_argument("--jobs", type=int, default=usable_cores())
    parser.add_argument("--timed", type=int, default=3, help="runs of each proxy whose median time is given")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    torch.set_num_threads(1)
    data = load_data(options.data, seed=options.seed)
    space = CellSpace(data.shape, len(data.classes))
    of = space, {"mean": list(data.mean), "std": list(data.std)}, few(data.train, options.batch, options.seed)
    alone = seconds(of, options.timed)
    networks, reference = drawn(pd.read_parquet(options.accuracy).set_index("arch_index"), space, options)
    accuracy = networks[options.column].to_numpy()
    names = [tuple(PROXIES) if place < options.rest else MANY for place in range(len(networks))]
    with ProcessPoolExecutor(options.jobs) as pool:
        tasks = zip(networks.arch_str, names, strict=True)
        table = pd.DataFrame(list(pool.map(partial(row, of), tasks, chunksize=4)))
    columns = {name: table[name].to_numpy()[: None if name in MANY else options.rest] for name in PROXIES}
    columns["ensemble"] = np.array(log_ranks({name: columns[name] for name in DEFAULT}))
    found = {}
    for name, values in columns.items():
        count = len(values)
        found[name] = correlations(finite(values), accuracy[:count])
        if (other := reference_of(name, reference)) is not None:
            found[name]["reference"] = correlations(np.asarray(other)[:count], accuracy[:count])
        if name in alone:
            found[name]["seconds"] = alone[name]
    report(found, options)
    if options.json:
        ensemble = found.pop("ensemble")
        result = {"ensemble": ensemble, "proxies": found, "n": len(networks), "batch": options.batch}
        write_whole(options.json, json.dumps(result, indent=2))


def report(found, options):
    """Print a table, best first."""
    count = max(one["n"] for one in found.values())
    print(f"{count} networks, {options.batch} images, torch {torch.__version__}, {options.jobs} processes")
    print(f"{'proxy':<10}{'n':>5}{'Kendall':>9}{'95 %':>14}{'Spearman':>10}{'by others':>11}{'95 %':>14}{'seconds':>9}")
    for name, one in sorted(found.items(), key=lambda pair: -pair[1]["kendall"]):
        line = f"{name:<10}{one['n']:>5}{one['kendall']:>9.3f}{interval(one):>14}{one['spearman']:>10.3f}"
        other = one.get("reference")
        line += f"{other['kendall']:>11.3f}{interval(other):>14}" if other else " " * 25
        print(line + (f"{one['seconds']:>9.2f}" if "seconds" in one else ""))


def interval(one):
    """Of Kendall's tau, as text."""
    return "{:.2f} .. {:.2f}".format(*one["interval"])


if __name__ == "__main__":
    main()
