"""Does it pay to ask for the next network when a worker is free, and not when all of a generation are?

On NAS-Bench-201, with simulated workers: training takes a network as long as its multiply-accumulates say (and a fixed
part of a tenth of the mean), give or take a tenth. *Synchronous*: as many networks as there are workers, and the next
ones when all have been told. *Steady*: one at a time, whenever a worker is free, with results outstanding. Compared is
the part of the true hypervolume after the same simulated time; one unit is the mean training of one worker.

    python benchmarks/steady_state.py --accuracy accuracy.parquet --latency latency_ms.parquet --device 1080ti_1
"""

import argparse
import heapq
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import nasbench201
import numpy as np

from hwnas.strategies import make_strategy
from hwnas.trial import Result

NAMES = {
    "lemonade": nasbench201.SCRATCH,
    "surrogate": nasbench201.SCRATCH,
    "nsga2": {"population": 8},
    "local-search": {},
}


@lru_cache(maxsize=1)
def loaded(accuracy, latency, device, error):
    """The problem, and the mean multiply-accumulates of its rows."""
    files = ["--accuracy", str(accuracy), "--latency", str(latency)]
    given = nasbench201.problem(nasbench201.parsed([*files, "--device", device, "--error", error]))
    table = nasbench201.Table(given.rows)
    return given, table, float(np.mean([table.macs(genotype) for genotype in given.rows]))


def simulated(options, name, steady, seed):
    """Fractions at the times, and how many networks had been trained at the last."""
    given, table, mean = loaded(options.accuracy, options.latency, options.device, options.error)
    chosen = make_strategy(
        name,
        table,
        nasbench201.TableCosts(table, given.objectives[1:]),
        given.objectives,
        seed,
        box=given.box(as_in_a_study=False),
        epochs=nasbench201.ONE_EPOCH,
        initial_epochs=nasbench201.ONE_EPOCH,
        **NAMES[name],
    )
    rng = np.random.default_rng(seed)
    running, done, now = [], [], 0.0
    while now < max(options.times):
        free = options.workers - len(running)
        if steady or not running:
            for trial in chosen.ask(free):
                hours = (0.1 + 0.9 * table.macs(trial.genotype) / mean) * rng.lognormal(0, 0.1)
                heapq.heappush(running, (now + hours, trial.id, trial))
        if not running:
            break
        now, _, trial = heapq.heappop(running)
        chosen.tell(trial.id, Result({"error": given.rows[trial.genotype]["error"]}, 0.0))
        done.append((now, [given.rows[trial.genotype][column] for column in given.objectives]))
    values = [[row for ended, row in done if ended <= time] for time in options.times]
    return [given.fraction(rows) if rows else 0.0 for rows in values], len(values[-1])


def main():
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", type=Path, required=True)
    parser.add_argument("--latency", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--error", default="c10_test_200")
    parser.add_argument("--times", type=float, nargs="+", default=[10, 20, 40], help="at which they are compared")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    tasks = [(name, steady, seed) for name in NAMES for steady in (False, True) for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs) as pool:
        found = list(pool.map(partial(simulated, options), *zip(*tasks, strict=True)))
    print(f"{options.device}, {options.workers} workers, {options.seeds} seeds")
    print("median part of the true volume after so many units of time; networks trained")
    print(f"{'':30}" + "".join(f"{time:>8g}" for time in options.times) + f"{'trained':>10}")
    for name in NAMES:
        for steady in (False, True):
            runs = [one for (*what, _), one in zip(tasks, found, strict=True) if what == [name, steady]]
            medians = np.median([fractions for fractions, _ in runs], axis=0)
            label = f"{name}, {'steady' if steady else 'synchronous'}"
            trained = np.median([count for _, count in runs])
            print(f"{label:30}" + "".join(f"{value:8.3f}" for value in medians) + f"{trained:10.0f}")


if __name__ == "__main__":
    main()
