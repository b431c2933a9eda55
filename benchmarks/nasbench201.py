"""Which strategy finds the front with the fewest trained networks? On NAS-Bench-201, where all is known.

Nothing is trained: errors come from a table of accuracies, latencies from one of a device. Every strategy is run from
many seeds and measured by the part of the true hypervolume that its networks dominate after so many evaluations. The
reference point is an error of 20 % (where no row is better: the median error) and the worst latency; the volume is
normalised by that of the true front. A baseline has some variants (its sweep), each run on all seeds; it is shown at
the one that is best on average over the evaluations. Results are kept in --cache and not made again; empty it when the
code changes.

    python benchmarks/nasbench201.py --accuracy accuracy.parquet --latency latency_ms.parquet --device 1080ti_1

The table shows medians and quartiles over seeds, evaluations up to 98 and 99 %, seconds that a strategy takes for 1,000
proposals (of all, and of the last tenth), and the p-value of the difference to random search, which is always run. The
files are read with pyarrow: pip install -e ".[bench]".

With --proxies, a file of zero-cost scores, rows without them are left out, and ablations such as
lemonade-prefilter-0.5 discard that share of the proposals; compare with the others in the same run.

With --search-error the strategies see that column instead, such as an accuracy after few epochs, and what counts is the
front by that column, scored by --error.
"""

import argparse
import functools
import hashlib
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported: as many processes run as there are cores

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu, rankdata, wilcoxon

from hwnas import pareto
from hwnas.box import Box
from hwnas.costs import Costs
from hwnas.lemonade import Lemonade
from hwnas.prefilter import Prefilter
from hwnas.schedule import Schedule
from hwnas.strategies import make_strategy
from hwnas.trial import Result
from objectives.base import Estimate
from objectives.proxies import DEFAULT as PROXIES
from spaces.cellspace import CellSpace
from spaces.wholefile import write_whole

MOMENTS = (50, 100, 200, 300, 400)
PARTS = (0.98, 0.99)
WORST_ERROR = 20.0
NEVER = 1e9  # evaluations, where a ratio has to be a number
ONE_EPOCH = Schedule.constant(1.0)
SCRATCH = {"inherit": False}


class UniformParents(Lemonade):
    """LEMONADE with parents drawn uniformly; children to be trained by density as ever."""

    def parent_chances(self, front):
        """All alike."""
        return np.full(len(front), 1 / len(front))


@dataclass(frozen=True)
class Variant:
    """A strategy with its settings.

    Attributes:
        label: What tells it from the other variants.
        name: In `hwnas.strategies`; None: `UniformParents`.
        options: Arguments.
        batch: How many networks it is asked for at a time; it knows all results before.
        blind: Whether the space begins with random networks, instead of those that it would.
        study_box: Whether the surrogate is told of hypervolume as in a study, where costs are logarithms and the worst
            error is that of guessing; else as it is measured here.
    """

    label: str
    name: str | None
    options: dict
    batch: int = 1
    blind: bool = False
    study_box: bool = False


def swept(name, **options):
    """A baseline with populations of several sizes, beginning with random networks or with the space's starts."""
    return [
        Variant(
            f"population {size}{', starts' * starts}", name, {"population": size, "starts": starts, **options}, size
        )
        for size in (4, 8, 16, 32)
        for starts in (False, True)
    ]


#: Every strategy and its sweep.
STRATEGIES = {
    "lemonade": [Variant("", "lemonade", SCRATCH, 8)],
    "surrogate": [Variant("", "surrogate", SCRATCH, 4)],
    "random": [Variant("", "random", {})],
    "regularized-evolution": [
        Variant(
            f"population {size}, tournament {drawn}{', starts' * starts}",
            "regularized-evolution",
            {"population": size, "tournament": drawn, "starts": starts},
        )
        for size, drawn in ((10, 3), (20, 5), (20, 10), (50, 10))
        for starts in (False, True)
    ],
    "local-search": [
        Variant(f"initial {count}{', starts' * starts}", "local-search", {"initial": count, "starts": starts})
        for count in (2, 8, 20)
        for starts in (False, True)
    ],
    "nsga2": swept("nsga2"),
    "sms-emoa": swept("sms-emoa"),
    "optuna-nsga2": [Variant(f"population {size}", "optuna-nsga2", {"population": size}) for size in (10, 20, 50)],
    "optuna-tpe": [Variant(f"{count} at first", "optuna-tpe", {"population": count}) for count in (10, 30)],
    # Ablations, run when they are named.
    "lemonade-uniform": [Variant("", None, SCRATCH, 8)],
    "lemonade-one-stage": [Variant("", "lemonade", {**SCRATCH, "proposals": 1}, 8)],
    "lemonade-paper": [Variant("", "lemonade", {**SCRATCH, "paper_density": True}, 8)],
    **{
        f"surrogate-explore-{share}": [Variant("", "surrogate", {**SCRATCH, "explore": share}, 4)]
        for share in (0.0, 0.1, 0.3, 1.0)
    },
    **{
        f"surrogate-proposals-{count}": [Variant("", "surrogate", {**SCRATCH, "proposals": count}, 4)]
        for count in (6, 12, 48, 96)
    },
    "surrogate-study-box": [Variant("", "surrogate", SCRATCH, 4, study_box=True)],
    "surrogate-blind": [Variant("", "surrogate", SCRATCH, 4, blind=True)],
    "lemonade-blind": [Variant("", "lemonade", SCRATCH, 8, blind=True)],
    **{
        f"{name}-prefilter-{share}": [Variant("", name, {**SCRATCH, "prefilter": share}, size)]
        for name, size in (("lemonade", 8), ("surrogate", 4))
        for share in (0.25, 0.5, 0.75)
    },
    **{f"surrogate-batch-{size}": [Variant("", "surrogate", SCRATCH, size)] for size in (1, 8, 16)},
}
DEFAULT = ("lemonade", "surrogate", "random", "regularized-evolution", "local-search", "nsga2", "sms-emoa")


class Table(CellSpace):
    """The rows of a table as a space: each is a network of its own, dead edges and all.

    Args:
        rows: By architecture string.
        first: What searches begin with; None: what they begin with in any space of cells.
    """

    def __init__(self, rows, first=None):
        super().__init__((3, 32, 32), 10)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "first", first)

    def starts(self):
        """Those of cells that the table has; rows from few parameters to many where it has none of them."""
        if self.first is not None:
            return self.first
        usual = super().starts()
        by_size = sorted(self.rows, key=lambda cell: self.rows[cell]["params"])
        spaced = [by_size[i] for i in np.linspace(0, len(by_size) - 1, min(len(usual), len(by_size))).astype(int)]
        return [cell for cell in usual if cell in self.rows] or spaced

    def hash(self, genotype):
        """The row."""
        return genotype

    def refusal(self, genotype):
        """What the table lacks cannot be evaluated."""
        return super().refusal(genotype) or (None if genotype in self.rows else "not in the table")


class TableCosts(Costs):
    """The cheap objectives, looked up."""

    def __init__(self, space, names):
        super().__init__(space, ())
        self.columns = tuple(names)

    @property
    def names(self):
        """Of the columns."""
        return list(self.columns)

    def _estimated(self, genotypes):
        rows = self.space.rows
        return [{name: Estimate.exact(rows[genotype][name]) for name in self.columns} for genotype in genotypes]


@dataclass(frozen=True)
class Problem:
    """One device and error: the rows, and what the search is measured by.

    Attributes:
        rows: By architecture string, the objectives of each; ``"search"`` is the error that the search sees.
        objectives: The error and the others.
        reference: Worst corner.
        volume: True hypervolume.
    """

    rows: dict
    objectives: tuple
    reference: tuple
    volume: float

    def fraction(self, values):
        """Of the true hypervolume."""
        return pareto.hypervolume(values, self.reference) / self.volume

    def box(self, as_in_a_study):
        """Where a strategy that asks for it is told that hypervolume is measured; see `Variant`."""
        ideal = (0.0, *(min(row[name] for row in self.rows.values()) for name in self.objectives[1:]))
        reference = (0.9, *self.reference[1:]) if as_in_a_study else self.reference
        return Box(self.objectives, ideal, reference, logarithmic=as_in_a_study)


def problem(options):
    """The problem of the command line."""
    accuracy, latency = pd.read_parquet(options.accuracy), pd.read_parquet(options.latency)
    for frame, column, path in (
        (accuracy, options.error, options.accuracy),
        (accuracy, options.search_error or options.error, options.accuracy),
        (latency, options.device, options.latency),
    ):
        if column not in frame:
            raise SystemExit(f"{path} has no column {column!r}; it has {', '.join(map(str, frame.columns))}")
    frame = accuracy.merge(latency[["arch_index", options.device]], on="arch_index")
    found = pd.DataFrame(
        {
            "error": 1 - frame[options.error] / 100,
            "latency": frame[options.device],
            "params": frame["params"],
            "search": 1 - frame[options.search_error or options.error] / 100,
        }
    ).set_index(frame["arch_str"])
    found = found[(np.isfinite(found) & (found > 0)).all(axis=1)].astype(float)
    if found.empty:
        raise SystemExit(f"no architecture has both {options.error} and {options.device}")
    objectives = tuple(options.objectives.split(","))
    if objectives[0] != "error" or not set(objectives[1:]) <= {"latency", "params"} or len(objectives) < 2:
        raise SystemExit(f"--objectives is {options.objectives!r}; write error,latency or error,latency,params")
    if options.proxies:
        found = found.join(scored(accuracy, options.proxies), how="inner")
    values = found[list(objectives)].to_numpy()
    worst = (options.reference_error or WORST_ERROR) / 100
    if values[:, 0].min() >= worst and options.reference_error is None:
        worst = float(np.median(values[:, 0]))
    reference = (worst, *values[:, 1:].max(axis=0).tolist())
    volume = pareto.hypervolume(values, reference)
    if volume == 0:
        raise SystemExit(f"no row has an error below {100 * worst:g} %; give a larger --reference-error")
    return Problem(found.to_dict("index"), objectives, reference, volume)


def scored(accuracy, path):
    """The scores of every architecture, or of one that is the same network."""
    table = pd.read_parquet(path).set_index("arch_index")[list(PROXIES)]
    same = accuracy.set_index("arch_index")["iso_rep_index"]
    return table.groupby(same).first().reindex(accuracy["iso_rep_index"]).set_index(accuracy["arch_str"]).dropna()


@functools.lru_cache(maxsize=1)
def loaded(arguments):
    """The problem, once a process."""
    return problem(parsed(list(arguments)))


def run(arguments, variant, seed):
    """One search: the fraction after each evaluation, and the seconds that the strategy took, in all and at the end."""
    options, given = parsed(list(arguments)), loaded(arguments)
    rng = np.random.default_rng([seed, 201])
    table = Table(given.rows)
    if variant.blind:
        table = Table(given.rows, [table.sample(rng) for _ in table.starts()])
    searched_on_error = options.search_error is None
    box = given.box(as_in_a_study=variant.study_box or not searched_on_error)
    arguments = (table, TableCosts(table, given.objectives[1:]), given.objectives, seed)
    settings = {"epochs": ONE_EPOCH, "initial_epochs": ONE_EPOCH, **variant.options}
    if "prefilter" in settings:
        costs = given.objectives[1:]
        settings["prefilter"] = Prefilter(table, PROXIES, given.rows.__getitem__, settings["prefilter"], costs)
    chosen = (
        UniformParents(*arguments, **settings)
        if variant.name is None
        else make_strategy(variant.name, *arguments, box=box, **settings)
    )
    asked, clock = [], [(0, time.process_time())]
    while len(asked) < options.evaluations:
        trials = chosen.ask(min(variant.batch, options.evaluations - len(asked)))
        if not trials:
            break
        for trial in trials:
            chosen.tell(trial.id, Result({"error": given.rows[trial.genotype]["search"]}, 0.0))
        asked += [trial.genotype for trial in trials]
        clock.append((len(asked), time.process_time()))
    if not asked:
        raise SystemExit(f"{variant.name} proposed nothing")
    late, since = max((moment for moment in clock[:-1] if moment[0] <= 0.9 * len(asked)), default=clock[0])
    return {
        "curve": curve(given, asked, searched_on_error),
        "seconds": (clock[-1][1] - clock[0][1]) / len(asked),
        "seconds_at_end": (clock[-1][1] - since) / (len(asked) - late),
    }


def curve(given, asked, searched_on_error):
    """The fraction after each evaluation, of the front by the error that the search saw."""
    values = np.array([[given.rows[genotype][name] for name in given.objectives] for genotype in asked])
    seen = np.array([given.rows[genotype]["search"] for genotype in asked])
    found = []
    for count in range(1, len(asked) + 1):
        front = np.arange(count)
        if not searched_on_error:
            front = pareto.nondominated(np.column_stack([seen[:count], values[:count, 1:]]))
        found.append(given.fraction(values[front]))
    return found


def moments_until(evaluations):
    """Numbers of evaluations that are reported; the last is one of them."""
    return [*(moment for moment in MOMENTS if moment < evaluations), evaluations]


def outcome(runs, evaluations):
    """What is reported of some runs of one variant, each from another seed."""
    curves = np.array([one["curve"] + one["curve"][-1:] * (evaluations - len(one["curve"])) for one in runs])
    moments = moments_until(evaluations)
    quarters = {moment: np.percentile(curves[:, moment - 1], [25, 50, 75]).tolist() for moment in moments}
    return {
        "fraction": {str(m): dict(zip(("q25", "median", "q75"), found, strict=True)) for m, found in quarters.items()},
        "evaluations_to": {str(part): finite(np.median(needed(curves, part))) for part in PARTS},
        "needed_by_seed": {str(part): list(map(finite, needed(curves, part))) for part in PARTS},
        "seconds_per_1000": 1000 * float(np.median([one["seconds"] for one in runs])),
        "seconds_per_1000_at_end": 1000 * float(np.median([one["seconds_at_end"] for one in runs])),
        "by_seed": {str(m): curves[:, m - 1].tolist() for m in moments},
        "mean": float(curves.mean()),
    }


def needed(curves, part):
    """Evaluations of each seed up to a part of the volume; infinite where it does not get there."""
    return np.where((curves >= part).any(axis=1), (curves >= part).argmax(axis=1) + 1.0, np.inf)


def finite(number):
    """As JSON has it: None where it is infinite."""
    return float(number) if np.isfinite(number) else None


def ratio(own, rival):
    """Of the medians of evaluations needed, with a 95 % interval by bootstrap, and the p-value of a difference.

    Seeds that do not get there need more than any that does. Strategies' random numbers have nothing in common, so
    the test is that of Mann and Whitney, and each is drawn by itself.
    """
    own, rival = (np.array([np.inf if one is None else one for one in needs]) for needs in (own, rival))
    rng = np.random.default_rng(0)
    ours, theirs = (np.median(rng.choice(needs, (2000, len(needs))), axis=1) for needs in (own, rival))
    low, high = np.percentile(np.minimum(ours, NEVER) / np.minimum(theirs, NEVER), [2.5, 97.5])
    high = np.inf if high > 1e-3 * NEVER else high
    ranks = rankdata([*own, *rival])
    return np.median(own) / np.median(rival), low, high, mannwhitneyu(ranks[: len(own)], ranks[len(own) :]).pvalue


def against(found, random):
    """P-values of the difference to random search, paired over seeds (Wilcoxon's signed ranks)."""
    return {
        moment: float(wilcoxon(values, random["by_seed"][moment]).pvalue)
        if values != random["by_seed"][moment]
        else 1.0
        for moment, values in found["by_seed"].items()
    }


def kept(arguments, options, variant, seed):
    """A run, or what is kept of it."""
    if options.cache is None:
        return run(arguments, variant, seed)
    inputs = [options.error, options.search_error, options.device, options.objectives, options.reference_error]
    what = [
        *inputs,
        options.evaluations,
        options.proxies and contents(options.proxies),
        variant.name,
        variant.options,
        variant.batch,
        variant.blind,
        variant.study_box,
        seed,
    ]
    text = json.dumps([what, contents(options.accuracy), contents(options.latency)])
    path = options.cache / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
    if not path.exists():
        made = run(arguments, variant, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(made))
    return json.loads(path.read_text())


@functools.lru_cache(maxsize=3)
def contents(path):
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parsed(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--accuracy", type=Path, required=True, help="arch_index, arch_str, params, accuracies in percent"
    )
    parser.add_argument("--latency", type=Path, required=True, help="arch_index, and a column for each device")
    parser.add_argument("--device", required=True, help="column of --latency")
    parser.add_argument("--error", default="c10_test_200", help="column of --accuracy; the error is what lacks to 100")
    parser.add_argument("--search-error", help="column that the search sees instead")
    parser.add_argument("--proxies", type=Path, help="arch_index, and a column for each zero-cost proxy")
    parser.add_argument("--strategies", nargs="+", default=DEFAULT, choices=STRATEGIES, metavar="NAME")
    parser.add_argument("--objectives", default="error,latency", help="error,latency or error,latency,params")
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=30, help="how many")
    parser.add_argument("--reference-error", type=float, help=f"percent; default {WORST_ERROR:g}, see above")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, help="folder of runs that are not made again")
    parser.add_argument("--json", type=Path, help="where results are written")
    options = parser.parse_args(arguments)
    if options.proxies is None and any("prefilter" in name for name in options.strategies):
        parser.error("strategies with a pre-filter need --proxies")
    if options.evaluations < 1 or options.seeds < 1 or options.jobs < 1:
        parser.error("--evaluations, --seeds and --jobs must be at least 1")
    return options


def main():
    """Run what is asked for, print the table, write the JSON."""
    import sys

    options, arguments = parsed(), tuple(sys.argv[1:])
    given = loaded(arguments)
    names = list(dict.fromkeys(["random", *options.strategies]))
    tasks = [(name, variant, seed) for name in names for variant in STRATEGIES[name] for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(kept, arguments, options, variant, seed) for _, variant, seed in tasks]
        runs = [future.result() for future in futures]
    found = {}
    for name in names:
        variants = {
            variant.label: outcome(
                [made for (_, one, _), made in zip(tasks, runs, strict=True) if one is variant], options.evaluations
            )
            for variant in STRATEGIES[name]
        }
        best = max(variants, key=lambda label: variants[label]["mean"])
        kept_of_each = ("mean", "evaluations_to", "needed_by_seed")
        sweep = {label: {key: one[key] for key in kept_of_each} for label, one in variants.items()}
        found[name] = {**variants[best], "variant": best, "sweep": sweep}
    for name in names:
        found[name]["p_against_random"] = against(found[name], found["random"])
    report(options, given, found)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"settings": settings, "reference": given.reference, "strategies": found}))


def report(options, given, found):
    """The table."""
    moments = moments_until(options.evaluations)
    source = options.error if options.search_error is None else f"{options.search_error}, scored by {options.error}"
    print(f"{options.device}, {options.objectives}, error {source}; reference {given.reference}; {options.seeds} seeds")
    print(
        f"{'median [quartiles] of the true volume after':44}" + "".join(f"{moment:>20}" for moment in moments), end=""
    )
    print("".join(f"{f'to {part:.0%}':>8}" for part in PARTS), f"{'s/1000':>8} {'at end':>7} {'p':>8}")
    for name, one in found.items():
        label = f"{name} ({one['variant']})" if one["variant"] else name
        cells = [one["fraction"][str(m)] for m in moments]
        print(f"{label:44}" + "".join(f"   {c['median']:.3f} [{c['q25']:.2f} {c['q75']:.2f}]" for c in cells), end="")
        print("".join(f"{one['evaluations_to'][str(part)] or '-':>8}" for part in PARTS), end="")
        seconds = f"{one['seconds_per_1000']:8.1f} {one['seconds_per_1000_at_end']:7.1f}"
        print(f" {seconds} {one['p_against_random'][str(moments[-1])]:8.1g}")
    for part in map(str, PARTS):
        for name in ("lemonade", "surrogate"):
            if name in found:
                print_against_soonest(part, name, found)


def print_against_soonest(part, name, found):
    """How many evaluations one of ours needs, as a multiple of those of the rival that needs fewest, of all sweeps."""
    rivals = {
        f"{rival} ({label})": one
        for rival in found
        if not rival.startswith(("surrogate", "lemonade"))
        for label, one in found[rival]["sweep"].items()
    }
    soonest = min(rivals, key=lambda label: rivals[label]["evaluations_to"][part] or float("inf"))
    own, other = found[name], rivals[soonest]
    if own["evaluations_to"][part] and other["evaluations_to"][part]:
        times, low, high, p = ratio(own["needed_by_seed"][part], other["needed_by_seed"][part])
        interval = f"{times:.2f} [{low:.2f} {high:.2f}]"
        print(f"to {part} {name} needs {interval} of what the soonest rival does, {soonest}, p {p:.1g}")
    elif own["evaluations_to"][part]:
        print(f"to {part} {name} needs {own['evaluations_to'][part]:g}, and most seeds of no rival get there")


if __name__ == "__main__":
    main()
