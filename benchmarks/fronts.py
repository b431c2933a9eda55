"""How long do the front and the hypervolume of very many networks take?

Points of four objectives: uniform in a cube, where few are in the front, and on spheres around the worst corner, where
thousands are. Medians of a few repetitions.

    python benchmarks/fronts.py --points 423000
"""

import argparse
import statistics
import time

import numpy as np

from hwnas import pareto

REPEATS = 5


def uniform(points, rng):
    """As if objectives had nothing to do with each other."""
    return rng.random((points, 4))


def traded(points, rng):
    """As if each objective were paid for by the others: at distances of 0.5 to 1 from the worst corner."""
    directions = np.abs(rng.normal(size=(points, 4)))
    return 1 - directions / np.linalg.norm(directions, axis=1)[:, None] * rng.uniform(0.5, 1, (points, 1))


def seconds(function, *arguments):
    """Median of some calls, and what the last returned."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = function(*arguments)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), found


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=423_000)
    options = parser.parse_args()
    print(f"{options.points:,} points, 4 objectives      in the front    front s    hypervolume s")
    for make in (uniform, traded):
        values = make(options.points, np.random.default_rng(0))
        front_seconds, front = seconds(pareto.nondominated, values)
        volume_seconds, _ = seconds(pareto.hypervolume, values, np.ones(4))
        print(f"{make.__name__:34}{len(front):>13,}{front_seconds:11.2f}{volume_seconds:17.2f}")


if __name__ == "__main__":
    main()
