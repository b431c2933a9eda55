"""What does each saving of a search save? The full system, the same with one of them more or less, and random search.

Every arm gets the same wall time on one core; see `arms`. The full system is what `hwnas search` does: LEMONADE with a
surrogate, inherited weights and rungs (asynchronous successive halving). The zero-cost pre-filter comes on top. Random
search is swept on the first seed, over how long each of its networks trains.

1. Anytime: the share of the box (`hwnas.box.Box`, equal for all arms) that validation results dominate, over time; when
   the full system has what random search has at its end.
2. Rungs: the rank correlation of errors on neighbouring rungs, of the networks that were promoted; and when the full
   system has what it has at the end without rungs.
3. Zero-cost proxies: their rank correlation with accuracy at equal cost, on these images; hypervolume after so many
   trainings, with and without them.
4. The front of each arm, thinned out by hypervolume, is trained again *identically*, from scratch, and scored on the
   test split.

Each search and each final training is kept in a file of its own, so that the script can be stopped and started again:

    python benchmarks/cost_of_search.py --data CIFAR10_FOLDER --out results --minutes 12 --seeds 0 1 2

"""

from dataclasses import replace

from arms import (
    OBJECTIVES,
    begun,
    best_variants,
    opened_study,
    print_fronts,
    print_leads,
    print_searches,
    result_of,
)

FULL = "full"
OTHERS = ("full_without_inheritance", "full_without_rungs", "full_without_surrogate", "full_with_prefilter")
SWEEPS = [("random-e5", "random-e12", "random-n40", "random-n20")]
TRAININGS = (10, 20, 40, 60, 80)


def records_of(arm, seed, options):
    """All trials of a search with a result."""
    from hwnas.store import Store

    with Store.open(options.out / f"{arm}-{seed}") as store:
        return [(trial, result) for trial, result in store.trials() if result is not None and result.status == "ok"]


def print_rungs(options):
    """How errors on neighbouring rungs agree."""
    from scipy.stats import kendalltau, spearmanr

    from hwnas.rungs import rung

    print("\nerrors on neighbouring rungs, of promoted networks: number, Kendall's tau, Spearman's rho, by seed")
    for level in (0, 1):
        cells = []
        for seed in options.seeds:
            if result_of(f"search:{FULL}:{seed}", options) is None:
                continue
            records = records_of(FULL, seed, options)
            here, above = (
                {trial.hash: result.values["error"] for trial, result in records if rung(trial) == at}
                for at in (level, level + 1)
            )
            both = [key for key in above if key in here]
            pairs = [here[key] for key in both], [above[key] for key in both]
            cells.append(f"{len(both)} {kendalltau(*pairs).statistic:.2f} {spearmanr(*pairs).statistic:.2f}")
        print(f"rungs {level} and {level + 1}: " + "; ".join(cells))


def print_proxies(options):
    """How zero-cost proxies agree with accuracy, where they chose nothing: chosen ones would differ too little."""
    from hwnas.plan import training_device
    from hwnas.prefilter import CONFIG, agreement
    from hwnas.proxyscores import ProxyScores

    print(f"\nrank correlation of zero-cost proxies with accuracy at equal cost, in {FULL}")
    for seed in options.seeds:
        if result_of(f"search:{FULL}:{seed}", options) is not None:
            study = opened_study(FULL, seed, options)
            names = study.spec.search.proxies
            score = ProxyScores.on(study.space, tuple(names), study.data, seed, training_device())
            scored = []
            for entry in study.strategy.archive.entries:
                config = {CONFIG: score(study.space.from_json(entry.trial.genotype))}
                scored.append(replace(entry, trial=replace(entry.trial, config=config)))
            found = agreement(scored, names, OBJECTIVES[1:])
            print(f"seed {seed}: " + ", ".join(f"{name} {r:.2f}" for name, r in found.items()))
    print("\nvalidation hypervolume after so many trainings, by seed")
    for arm in (FULL, "full_with_prefilter"):
        cells = []
        for count in TRAININGS:
            curves = [found["curve"] for seed in options.seeds if (found := result_of(f"search:{arm}:{seed}", options))]
            cells.append(" ".join(f"{curve[count - 1][1]:.3f}" for curve in curves if len(curve) >= count))
        print(f"{arm:<24}" + "".join(f"{f'{n}: {cell}':>26}" for n, cell in zip(TRAININGS, cells, strict=True) if cell))


def main():
    """Parse, run, report."""
    options = begun(__doc__, (FULL, *OTHERS), SWEEPS)
    print_searches((FULL, *OTHERS, *(arm for arms in SWEEPS for arm in arms)), options)
    rivals = (*OTHERS, *best_variants(SWEEPS, options))
    print_leads(FULL, rivals, options)
    print_rungs(options)
    print_proxies(options)
    print_fronts((FULL, *rivals), options)


if __name__ == "__main__":
    main()
