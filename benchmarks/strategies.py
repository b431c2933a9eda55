"""Strategies at equal wall time on real training: LEMONADE, alone and with a surrogate, against its rivals.

Every arm runs on one core; see `arms`. Each rival is swept on the first seed, over how many networks its time is shared
out among; its best variant then runs on all seeds. Those that evolve begin with the same networks as LEMONADE. The
front of each arm is trained again *identically*, from scratch, and scored on the test split.

    python benchmarks/strategies.py --data fashion-mnist --out results --minutes 4 --seeds 0 1 2

"""

from arms import LEMONADE, begun, best_variants, print_fronts, print_searches

OURS = (LEMONADE, "surrogate")
RIVALS = ("random-n{}", "regularized-evolution-n{}-starts8", "local-search-n{}-starts", "nsga2-n{}-starts8")
SWEEPS = [[rival.format(networks) for networks in (20, 40)] for rival in RIVALS]


def main():
    """Parse, run, report."""
    options = begun(__doc__, OURS, SWEEPS)
    print_searches((*OURS, *(arm for arms in SWEEPS for arm in arms)), options)
    print_fronts((*OURS, *best_variants(SWEEPS, options)), options)


if __name__ == "__main__":
    main()
