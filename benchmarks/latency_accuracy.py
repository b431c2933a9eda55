"""How right predicted latencies are, on networks that nothing was built or tuned on.

    python benchmarks/latency_accuracy.py --out RESULTS [--threads 1] [--groups nas torchvision] [--json FILE]

For each group of networks: a latency table is profiled for them, every network is measured whole (in interleaved
rounds, so that a noisy spell hits all alike), and predicted by

- the table: the sum over the kernels of the runtime's own optimised graph;
- the same with nothing profiled for it: every kernel of the network is estimated from those of the other networks;
- a sum over the operators of the graph as it was exported, each timed in the same way;
- its multiply-accumulates, at the group's median rate.

The noise floor is how far apart two measurements of the same network are (odd rounds and even ones).

Each table is checked first, by the networks that `hwnas check` takes, which are in no group; and how many networks of
the group measure within their predicted intervals is counted: it should be nine in ten of the random ones.
"""

import argparse
import itertools
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pandas as pd

from hwnas.latencycli import networks
from hwnas.sample import random_networks, untrained_models
from latency import Deployment, LatencyTable, make_runtime, measure_many, time_kernels
from latency.estimate import Estimator
from latency.memory import MB
from latency.prediction import add_up, predict
from latency.profile import judge, noise, summarise
from latency.shapes import fix_batch, trace
from objectives.cost import latency
from spaces.plain import PlainSpace

NAS_SEEDS = (100, 101)
SPACES = {
    "32": PlainSpace((3, 32, 32), classes=10, max_width=256),
    "64": PlainSpace((3, 64, 64), classes=20, stages=4, stem_stride=2, max_width=256),
}
TORCHVISION = {
    224: ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet50", "squeezenet1_1",
          "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0", "regnet_y_400mf", "densenet121", "googlenet"),
    128: ("mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnet34", "squeezenet1_1", "shufflenet_v2_x1_5",
          "mnasnet0_75", "efficientnet_b0", "regnet_x_800mf", "densenet121"),
}  # fmt: skip


def nas_networks(batch=1):
    """Random networks of two plain spaces."""
    found = []
    for seed, (name, space) in itertools.product(NAS_SEEDS, SPACES.items()):
        for number, model in enumerate(untrained_models(random_networks(space, seed), batch)):
            model.graph.name = f"plain{name}-{seed}-{number}"
            found.append(model)
    return found


def torchvision_networks(folder):
    """Classifiers of torchvision at two resolutions, with norms that look trained; exported once, then read."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for side, names in TORCHVISION.items():
        for name in names:
            file = folder / f"{name}_{side}.onnx"
            if not file.exists():
                export(name, side, file)
            model = onnx.load(file)
            model.graph.name = file.stem
            found.append(model)
    return found


def export(name, side, file):
    """One of torchvision's classifiers as ONNX."""
    import torch
    import torchvision

    torch.manual_seed(0)
    extra = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    module = getattr(torchvision.models, name)(weights=None, **extra).eval()
    for part in module.modules():  # norms as they are made fold to other kernels than trained ones
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
            torch.nn.init.normal_(part.running_mean, 0, 0.1)
    torch.onnx.export(module, (torch.rand(1, 3, side, side),), file, dynamo=True, verbose=False, external_data=False)


def operators(runtime, model):
    """The graph's operators as they were exported, nothing fused."""
    return trace(fix_batch(model, runtime.deployment.batch)).kernels


def estimated(table, programs):
    """Each network from a table that has none of its kernels."""
    found = []
    for program in programs:
        others = table.frame.drop(index=[str(kernel) for kernel in set(program.kernels)])
        estimator = partial(Estimator, others)
        sums = add_up(others, table.header.memory, program.kernels, program.footprint, estimator)
        found.append(predict(sums, table.header.calibration, table.header.check, table.snapshot()).ms)
    return found


def pricing(table):
    """What a search waits for the latency of a network that it sees for the first time, its kernels being known."""
    archs = [arch for space in SPACES.values() for arch in random_networks(space, NAS_SEEDS[0])]
    objective, milliseconds = latency(table), []
    for arch in archs:
        began = time.perf_counter()
        objective.estimate([arch])
        milliseconds.append(1e3 * (time.perf_counter() - began))
    middle, largest = np.median(milliseconds), max(milliseconds)
    print(f"a network new to the search is priced in {middle:.1f} ms (median), {largest:.1f} ms at most")


def judged(names, predicted, measured):
    """A check's numbers for one way to predict."""
    return summarise(
        pd.DataFrame(
            {
                "name": names,
                "predicted_ms": predicted,
                "measured_ms": [one.quiet_ms for one in measured],
                "noise": [noise(one.rounds) for one in measured],
            }
        )
    )


def run(group, models, options):
    """Profile, check, measure and predict a group; its rows."""
    wanted = {name: getattr(options, name) for name in ("threads", "batch", "precision", "layout")}
    runtime = make_runtime(Deployment.here(options.runtime, **wanted))
    table = LatencyTable.open(runtime, options.out / f"{group}-{runtime.deployment.key}.csv")
    print(f"{runtime.deployment} with {runtime.version}, {table.header.driver}")
    judges = networks([], options.batch, seed=1)
    programs = [runtime.lower(model) for model in (*judges, *models)]
    missing = table.missing(kernel for program in programs for kernel in program.kernels)
    began = time.perf_counter()
    table.extend(missing)
    spent = time.perf_counter() - began
    if missing:
        print(f"{group}: {len(missing)} kernels, {1e3 * spent / len(missing):.0f} ms each")
    measured = measure_many(runtime, [*judges, *models], table.header.protocol, rounds=options.rounds)
    sums = [table.sums(program.kernels, program.footprint) for program in programs]
    known = len(judges)
    print(judge(table, [model.graph.name for model in judges], sums[:known], measured[:known]))
    programs, measured, names = programs[known:], measured[known:], [model.graph.name for model in models]
    predicted = [table.total(program.kernels, program.footprint) for program in programs]
    inside = [found.low_ms <= one.quiet_ms <= found.high_ms for found, one in zip(predicted, measured, strict=True)]
    work = np.array([sum(kernel.macs for kernel in operators(runtime, model)) for model in models])
    truth = np.array([one.quiet_ms for one in measured])
    ways = {
        "table": [found.ms for found in predicted],
        "estimates": estimated(table, programs),
        "MACs": list(work * np.median(truth / work)),
    }
    if options.operators:
        each = [operators(runtime, model) for model in models]
        different = list(dict.fromkeys(kernel for kernels in each for kernel in kernels))
        times = dict(zip(different, time_kernels(runtime, different, table.header.protocol), strict=True))
        ways["operators"] = [sum(times[kernel].min_us for kernel in kernels) / 1e3 for kernels in each]
    rows = []
    for way, latencies in ways.items():
        found = judged(names, latencies, measured)
        rows.append({"group": group, "by": way, **asdict(found)})
        print(
            f"{group:<12} {way:<10} {found.networks:>3} nets  MAPE {found.mape:6.1%}  within 5 % {found.within_5:4.0%}"
            f"  10 % {found.within_10:4.0%}  tau {found.kendall_tau:.3f}  noise floor {found.noise_floor:.1%}"
        )
    print(f"{group}: {np.mean(inside):.0%} measure within the interval of the table")
    if group == "nas":
        pricing(table)
    if options.verbose:
        for name, found, one, program in zip(names, predicted, measured, programs, strict=True):
            error = found.ms / one.quiet_ms - 1
            weights = sum(operand.nbytes for kernel in program.kernels for operand in kernel.constants.values()) / MB
            print(f"  {name:<26} {one.quiet_ms:8.3f} ms {error:+7.1%} noise {noise(one.rounds):5.1%}"
                  f" weights {weights:6.1f} MB footprint {program.footprint / MB:6.1f} MB")  # fmt: skip
    return rows


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of tables and exported networks")
    parser.add_argument("--runtime", default="ort-cpu", help="on a GPU torch-cuda (eager) or torch-cudagraph")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1, help="random networks only")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--layout", default="nchw")
    parser.add_argument("--rounds", type=int, default=10, help="passes over the networks")
    parser.add_argument("--groups", nargs="+", default=["nas", "torchvision"], choices=["nas", "torchvision"])
    parser.add_argument("--operators", action="store_true", help="time the operators of the exported graphs, too")
    parser.add_argument("--verbose", action="store_true", help="print each network")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for group in options.groups:
        models = nas_networks(options.batch) if group == "nas" else torchvision_networks(options.out / "torchvision")
        rows += run(group, models, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
