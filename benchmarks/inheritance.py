"""Does inheritance pay? LEMONADE against itself without inherited weights, and against random search.

Every arm gets the same wall time on one core; see `arms`.

1. Each rival is swept on the first seed: every network trains for so many epochs (``random-e5``), or for the same time,
   such that there is enough for so many networks (``scratch-n40``). LEMONADE is planned for 120, so ``scratch-n120`` is
   nearest to it; but without inheritance nothing is trained on, and the first networks get no more than the others. The
   best variant by the validation hypervolume at the end then runs on all seeds; LEMONADE runs as it is.
2. Anytime: the share of the box (`hwnas.box.Box`, equal for all arms) that validation results dominate, over time.
3. Where the volume comes from: what a training adds on average, of a network without a parent, of one that is smaller
   or not smaller than its parent, of one that is trained on.
4. The front of each arm, thinned out by hypervolume, is trained again *identically*, from scratch, and scored on the
   test split.

Each search and each final training is kept in a file of its own, so that the script can be stopped and started again:

    python benchmarks/inheritance.py --data CIFAR10_FOLDER --out results --minutes 12 --seeds 0 1 2

"""

import statistics

from arms import (
    LEMONADE,
    OBJECTIVES,
    begun,
    best_variants,
    print_fronts,
    print_leads,
    print_searches,
    result_of,
)

SWEEPS = {
    "scratch": ("scratch-n120", "scratch-n40", "scratch-n20"),
    "random": ("random-e5", "random-e12", "random-n40", "random-n20"),
}


def gains(arm, seed, options):
    """What each training of a search has added to the hypervolume, by what it was a training of."""
    from hwnas.archive import Archive
    from hwnas.box import Box
    from hwnas.store import Store

    with Store.open(options.out / f"{arm}-{seed}") as store:
        box, records = store.read("box", Box.from_json), store.trials()
    done = [(trial, result) for trial, result in records if result is not None and result.status == "ok"]
    params = {trial.id: trial.cheap["params"] for trial, _ in records}
    found = {"no parent": [], "smaller": [], "not smaller": [], "trained on": []}
    before = 0.0
    for count, (trial, _) in enumerate(done, start=1):
        volume = box.volume(Archive(done[:count], OBJECTIVES).matrix())
        if trial.parent is None:
            kind = "no parent"
        elif not trial.moves:
            kind = "trained on"
        else:
            kind = "smaller" if params[trial.id] < params[trial.parent] else "not smaller"
        found[kind].append(volume - before)
        before = volume
    return found


def report(options):
    """Tables over the results there are."""
    arms = (LEMONADE, *best_variants(SWEEPS.values(), options))
    print_searches((LEMONADE, *(arm for arms in SWEEPS.values() for arm in arms)), options)
    print("\nvolume that a training adds, mean in thousandths (trainings), all seeds")
    for arm in arms:
        seeds = [seed for seed in options.seeds if result_of(f"search:{arm}:{seed}", options)]
        own = [gains(arm, seed, options) for seed in seeds]
        added = {kind: [gain for found in own for gain in found[kind]] for kind in own[0]} if own else {}
        cells = [
            f"{kind} {1e3 * statistics.mean(of_kind):.2f} ({len(of_kind)})"
            for kind, of_kind in added.items()
            if of_kind
        ]
        print(f"{arm:<14} {', '.join(cells)}")
    print_fronts(arms, options)
    print_leads(LEMONADE, arms[1:], options)


if __name__ == "__main__":
    report(begun(__doc__, [LEMONADE], SWEEPS.values()))
