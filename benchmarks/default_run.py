"""The default run for several seeds: models, their range, accuracy and time.

    python benchmarks/default_run.py --out RESULTS --seeds 0 1 2 3 4

A seed whose run is there already is only shown.
"""

import argparse
import statistics
from pathlib import Path

from hwnas import Spec, read_manifest, search


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="holds a run folder for each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    for seed in options.seeds:
        if not (options.out / str(seed)).exists():
            search(Spec().resolve({"seed": seed}), options.out / str(seed))
    print(f"{'seed':>4}{'seconds':>9}{'models':>8}{'params':>8}{'to':>9}{'factor':>8}{'first: val %':>14} test %")
    rows = []
    for seed in options.seeds:
        manifest = read_manifest(options.out / str(seed))
        params, first = [model.params for model in manifest.models], manifest.models[0].accuracy
        rows.append((len(params), max(params) / min(params), 100 * first.test))
        print(
            f"{seed:>4}{manifest.wall_seconds:>9.0f}{len(params):>8}{min(params):>8,}{max(params):>9,}{rows[-1][1]:>8.0f}"
            f"{100 * first.val:>14.2f} {100 * first.test:.2f}"
        )
    models, factors, tests = ([row[column] for row in rows] for column in range(3))
    print(f"median: {statistics.median(models):g} models, a factor of {statistics.median(factors):.0f}, ", end="")
    print(f"{statistics.median(tests):.2f} % on the test split")


if __name__ == "__main__":
    main()
