"""Searches side by side at equal wall time, for the benchmarks that compare them; each result in a file of its own.

Every arm runs on one core, on a fixed subset of the training images, as many at once as --parallel says. Objectives are
error, parameters and MACs; no network has more than a million parameters. An arm is called by its strategy or its name
in `VARIANTS`, and by how long its networks train: ``random-e5`` for so many epochs, ``nsga2-n40`` for the same time
each, such that there is enough for so many; ``-starts`` where it begins with the networks that LEMONADE begins with,
and its population, if it has one: ``nsga2-n40-starts8``.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kept import same_settings

from spaces.wholefile import write_whole

LEMONADE = "lemonade"
#: Arms that are not simply a strategy, by what is different from the defaults.
VARIANTS = {
    "full": {},
    "full_without_inheritance": {"search.inherit": False},
    "full_without_rungs": {"search.promotion": "none"},
    "full_without_surrogate": {"search.strategy": "lemonade"},
    "full_with_prefilter": {"search.discard": 0.5},
}
MOMENTS = (0.125, 0.25, 0.5, 0.75, 1.0)
MAX_PARAMS = 1_000_000
OBJECTIVES = ["error", "params", "macs"]
SHARE = 0.5  # of the study's budget kept for its end, which is not used here
STEPS, ROUNDS = 60, 5  # training steps by which it is checked that two processes do not disturb each other


def arguments(description):
    """The options that all have, for a parser."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images or the name of a data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--minutes", type=float, default=12.0, help="wall time of a search")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--front", type=int, default=8, help="networks of a front that are trained identically")
    parser.add_argument("--final-epochs", type=float, default=10.0)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"], help="of all training, alike")
    parser.add_argument("--parallel", type=int, default=2, help="processes at once; at most the cores of the machine")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="print what there is and stop")
    return parser


def arm_spec(arm, options, seed):
    """The specification of one arm."""
    from hwnas.spec import Spec

    overrides = {
        "data.source": options.data,
        "data.train_limit": options.images,
        "objectives": OBJECTIVES,
        "space.max_params": MAX_PARAMS,
        "budget.time": options.minutes * 60 / (1 - SHARE),
        "final.share": SHARE,
        "training.precision": options.precision,
        "seed": seed,
        "threads": 1,
        "search.workers": 1,
    }
    name, unit, length, starts, population = re.fullmatch(r"(.+?)(?:-([en])(\d+))?(?:-(starts)(\d+)?)?", arm).groups()
    overrides |= VARIANTS.get(name, {"search.strategy": name})
    if unit == "e":
        overrides["search.epochs"] = float(length)
    elif unit == "n":
        overrides["search.trainings"] = int(length)
    if starts:
        overrides |= {"search.starts": True, "search.population": int(population) if population else None}
    return Spec().resolve(overrides)


def opened_study(arm, seed, options):
    """The study of one arm; begun, or gone on with."""
    from hwnas.progress import Quiet
    from hwnas.store import Store
    from hwnas.study import Study, load

    spec = arm_spec(arm, options, seed)
    folder = options.out / f"{arm}-{seed}"
    store = Store.open(folder, write=True) if Store.exists(folder) else Store.create(folder, spec.to_json())
    return Study(spec, load(spec), store, Quiet())


def search(arm, seed, options):
    """Search for the given minutes; the hypervolume after each training."""
    from hwnas.archive import Archive

    study = opened_study(arm, seed, options)
    study.search()
    records = study.store.trials()
    done = [(trial, result) for trial, result in records if result is not None and result.status == "ok"]
    curve = [
        (result.info["elapsed"], study.box.volume(Archive(done[: i + 1], OBJECTIVES).matrix()))
        for i, (_, result) in enumerate(done)
    ]
    return {"trainings": len(done), "curve": curve, "best": min(result.values["error"] for _, result in done)}


def finish(arm, seed, options):
    """Train the front that a search found from scratch, for the same epochs whatever the arm, and test it."""
    from objectives import cost
    from objectives.accuracy import evaluate
    from objectives.training import train
    from spaces.network import Network
    from spaces.state import initial_state

    study = opened_study(arm, seed, options)
    front = study.strategy.archive.front().spread(options.front)
    rows = []
    for entry in front.entries:
        arch = study.space.decode(study.space.from_json(entry.trial.genotype))
        mean, std = list(study.data.mean), list(study.data.std)
        network = Network(arch, initial_state(arch, seed, mean=mean, std=std).value)
        train(network, study.data.train, study.spec.recipe(options.final_epochs, seed))
        rows.append([1 - evaluate(network, study.data.test).value, cost.params(arch), cost.macs(arch)])
    return {"front": rows, "volume": study.box.volume(rows)}


def steps_per_second(options):
    """Training steps a second of one network, in this process; nothing is searched."""
    import torch

    from hwnas.plan import network
    from hwnas.study import load
    from objectives.timedstep import training_step
    from spaces.plain import PlainSpace

    spec = arm_spec(LEMONADE, options, 0)
    data = load(spec)
    arch = PlainSpace(data.shape, len(data.classes)).starts()[2]
    step = training_step(network(arch, torch.device("cpu")), data.train, spec.recipe(1.0, 0))
    rates = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        rates.append(STEPS / (time.perf_counter() - began))
    return {"rate": statistics.median(rates)}


TASKS = {"search": search, "finish": finish}


def run_one(task, options):
    """One task in this process."""
    import torch

    torch.set_num_threads(1)
    kind, arm, seed = task.split(":")
    result = steps_per_second(options) if kind == "rate" else TASKS[kind](arm, int(seed), options)
    write_whole(path(task, options), json.dumps(result))


def path(task, options):
    """Where the result of a task is kept."""
    return options.out / f"{task.replace(':', '-')}.json"


def result_of(task, options):
    """The result of a task, or None."""
    file = path(task, options)
    return json.loads(file.read_text()) if file.exists() else None


def run_all(tasks, options):
    """Those that have no result yet, so many at a time."""
    waiting = [task for task in tasks if result_of(task, options) is None]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = []
    while waiting or running:
        if any(process.poll() for process in running):
            for process in running:
                process.kill()
            sys.exit("a task failed; see above. What is finished is kept: mend it and start again")
        running = [process for process in running if process.poll() is None]
        if waiting and len(running) < options.parallel:
            task = waiting.pop(0)
            print(f"{time.strftime('%H:%M:%S')} {task}", flush=True)
            running.append(subprocess.Popen([sys.executable, *sys.argv, "--only", task], env=environment))
        time.sleep(0.5)


def volume_at(curve, seconds):
    """Hypervolume at a moment; it may fall, as a network that is trained on is judged anew."""
    return next((volume for elapsed, volume in reversed(curve) if elapsed <= seconds), 0.0)


def seconds_to(curve, aim):
    """When a hypervolume is had for good."""
    reached = float("inf")
    for elapsed, volume in reversed(curve):
        if volume < aim:
            break
        reached = elapsed
    return reached


def final_volume(arm, seed, options):
    """Validation hypervolume of a search at its end; None if it has not run."""
    found = result_of(f"search:{arm}:{seed}", options)
    return None if found is None else volume_at(found["curve"], options.minutes * 60)


def best_variants(sweeps, options):
    """Of each sweep the arm with the largest validation hypervolume at the end, on the first seed."""
    best = []
    for arms in sweeps:
        ranked = {arm: final_volume(arm, options.seeds[0], options) for arm in arms}
        best += [max((arm for arm in arms if ranked[arm] is not None), key=ranked.get, default=arms[0])]
    return best


def undisturbed(options):
    """Training steps a second of one process alone, and of each of two at once."""
    run_all(["rate:alone:0"], options)
    run_all(["rate:pair:0", "rate:pair:1"], options)


def compare(ours, sweeps, options):
    """Sweep the rivals on the first seed; run the best of each, and ours, on all seeds; finish their fronts alike."""
    first, *others = options.seeds
    undisturbed(options)
    run_all([f"search:{arm}:{first}" for arm in (*ours, *(arm for arms in sweeps for arm in arms))], options)
    arms = [*ours, *best_variants(sweeps, options)]
    run_all([f"search:{arm}:{seed}" for seed in others for arm in arms], options)
    run_all([f"finish:{arm}:{seed}" for seed in options.seeds for arm in arms], options)


def begun(description, ours, sweeps):
    """What the command line asks for: one task in this process, which ends it, or all; the options."""
    options = arguments(description).parse_args()
    alike = {
        name: getattr(options, name) for name in ("data", "minutes", "images", "precision", "final_epochs", "front")
    }
    same_settings(options.out, **alike)
    if options.only:
        run_one(options.only, options)
        sys.exit()
    if not options.report:
        compare(ours, sweeps, options)
    print_head(options)
    return options


def print_leads(ours, rivals, options):
    """When an arm has the final validation hypervolume of others, as a share of the time."""
    print(f"\n{ours} has what others have at the end after so much of the time, by seed")
    for rival in rivals:
        shares = []
        for seed in options.seeds:
            aim, found = final_volume(rival, seed, options), result_of(f"search:{ours}:{seed}", options)
            if aim is not None and found is not None:
                shares.append(seconds_to(found["curve"], aim) / (options.minutes * 60))
        print(f"{rival:<28}" + " ".join("never" if share > 1 else f"{share:.2f}" for share in shares))


def print_head(options):
    """The machine, and whether arms disturb each other on it."""
    import torch

    from latency import Deployment

    print(f"{Deployment.here().device}, torch {torch.__version__}, {options.minutes:g} minutes an arm")
    rates = [result_of(f"rate:{which}", options) for which in ("alone:0", "pair:0", "pair:1")]
    if all(rates):
        alone, *pair = [rate["rate"] for rate in rates]
        print(f"\ntraining steps a second: alone {alone:.2f}; two at once {pair[0]:.2f} and {pair[1]:.2f}")


def print_searches(arms, options):
    """Validation hypervolume over time."""
    total = options.minutes * 60
    head = "".join(f"{moment * options.minutes:>8.3g}m" for moment in MOMENTS)
    columns = f"{'arm':<26}{'seeds':>6}{'trained':>9}{head}   at the end; lowest error %"
    print(f"\nvalidation hypervolume, median over seeds\n{columns}")
    for arm in arms:
        own = [found for seed in options.seeds if (found := result_of(f"search:{arm}:{seed}", options))]
        if own:
            volumes = [statistics.median(volume_at(found["curve"], m * total) for found in own) for m in MOMENTS]
            ends = " ".join(f"{volume_at(found['curve'], total):.3f}" for found in own)
            print(f"{arm:<26}{len(own):>6}{statistics.median(found['trainings'] for found in own):>9.0f}", end="")
            lowest = " ".join(f"{100 * found['best']:.1f}" for found in own)
            print("".join(f"{volume:>9.4f}" for volume in volumes), f"  {ends}; {lowest}")


def print_fronts(arms, options):
    """Fronts that were trained alike."""
    print("\nfronts trained identically: test hypervolume, best test accuracy %")
    for arm in arms:
        own = [found for seed in options.seeds if (found := result_of(f"finish:{arm}:{seed}", options))]
        if own:
            volumes = " ".join(f"{found['volume']:.3f}" for found in own)
            best = " ".join(f"{100 * (1 - min(found['front'])[0]):.1f}" for found in own)
            median = statistics.median(found["volume"] for found in own)
            print(f"{arm:<26} median {median:.4f}  ({volumes})  best {best}")
