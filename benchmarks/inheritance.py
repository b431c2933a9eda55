"""Does inheritance pay? LEMONADE against itself without inherited weights, and against random search.

Every arm gets the same wall time on one core, on a fixed subset of the training images; two arms run at once, each in a
process of its own. Objectives are error, parameters and MACs; no network has more than a million parameters. An arm
``scratch-5`` or ``random-5`` trains each network for five epochs. Two comparisons:

1. The share of the box (`hwnas.box.Box`, equal for all arms) that the validation results dominate, over time.
2. The front of each arm, at most eight networks by hypervolume, trained again *identically*, from scratch, and scored
   on the test split.

Results are kept by arm and seed, so that the script can be stopped and started again:

    python benchmarks/inheritance.py --data CIFAR10_FOLDER --out results --minutes 12 --seeds 0 1 2

"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ARMS = ("lemonade", "scratch-2", "scratch-5", "random-2", "random-5", "random-12")
MOMENTS = (0.125, 0.25, 0.5, 0.75, 1.0)
MAX_PARAMS = 1_000_000
OBJECTIVES = ["error", "params", "macs"]
SHARE = 0.5  # of the study's budget kept for its end, which is not used here


def arm_spec(arm: str, options: argparse.Namespace, seed: int):
    """The specification of one arm."""
    from hwnas.spec import Spec

    overrides = {
        "data.source": options.data,
        "data.train_limit": options.images,
        "objectives": OBJECTIVES,
        "space.max_params": MAX_PARAMS,
        "budget.time": options.minutes * 60 / (1 - SHARE),
        "final.share": SHARE,
        "seed": seed,
        "threads": 1,
    }
    kind, _, epochs = arm.partition("-")
    if epochs:
        overrides |= {"search.epochs": float(epochs), "search.initial_epochs": float(epochs)}
    if kind == "scratch":
        overrides["search.inherit"] = False
    if kind == "random":
        overrides["search.strategy"] = "random"
    return Spec().resolve(overrides)


def run_arm(arm: str, seed: int, options: argparse.Namespace) -> None:
    """Search in this process, then train the front identically; writes ARM-SEED.json."""
    import torch

    torch.set_num_threads(1)
    from hwnas.archive import Archive
    from hwnas.progress import Quiet
    from hwnas.store import Store
    from hwnas.study import Study, load
    from objectives import cost
    from objectives.accuracy import evaluate
    from objectives.training import train
    from spaces.network import Network
    from spaces.state import initial_state

    spec = arm_spec(arm, options, seed)
    folder = options.out / f"{arm}-{seed}"
    began = time.monotonic()
    data = load(spec)
    opened = Store.open(folder, write=True) if Store.exists(folder) else Store.create(folder, spec.to_json())
    with opened as store:
        study = Study(spec, data, store, Quiet())
        study.search()
        records = store.trials()
        done = [(trial, result) for trial, result in records if result is not None and result.status == "ok"]
        curve = [
            (result.info["elapsed"], study.box.volume(Archive(done[: i + 1], OBJECTIVES).matrix()))
            for i, (_, result) in enumerate(done)
        ]
        front = study.strategy.archive.front().spread(options.front)
        rows = []
        for entry in front.entries:
            arch = study.space.decode(study.space.from_json(entry.trial.genotype))
            network = Network(arch, initial_state(arch, seed, mean=list(data.mean), std=list(data.std)).value)
            recipe = spec.recipe(options.final_epochs, seed)
            train(network, data.train, recipe)
            error = 1 - evaluate(network, data.test).value
            rows.append([error, cost.params(arch), cost.macs(arch)])
        result = {
            "arm": arm,
            "seed": seed,
            "trainings": len(records),
            "plan": study.plan.to_json(),
            "curve": curve,
            "front": rows,
            "final": study.box.volume(rows),
            "seconds": time.monotonic() - began,
        }
    (options.out / f"{arm}-{seed}.json").write_text(json.dumps(result))


def run_all(options: argparse.Namespace) -> None:
    """All arms and seeds that have no result yet, two at a time."""
    waiting = [
        (arm, seed)
        for seed in options.seeds
        for arm in options.arms
        if not (options.out / f"{arm}-{seed}.json").exists()
    ]
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        running = [process for process in running if process.poll() is None]
        if waiting and len(running) < options.parallel:
            arm, seed = waiting.pop(0)
            print(f"{time.strftime('%H:%M:%S')} {arm} seed {seed}", flush=True)
            running.append(subprocess.Popen([sys.executable, *sys.argv, "--only", f"{arm}:{seed}"]))
        time.sleep(1)


def volume_at(curve: list[list[float]], seconds: float) -> float:
    """Hypervolume at a moment."""
    return max((volume for elapsed, volume in curve if elapsed <= seconds), default=0.0)


def report(options: argparse.Namespace) -> None:
    """Tables over the results there are."""
    results = [json.loads(path.read_text()) for path in sorted(options.out.glob("*-*.json"))]
    total = options.minutes * 60
    print(f"\n{'arm':<12}{'seeds':>6}{'trained':>9}", end="")
    print("".join(f"{moment * options.minutes:>7.3g}m" for moment in MOMENTS), end="")
    print(f"{'final':>9}{'range':>16}")
    by_arm = {arm: [result for result in results if result["arm"] == arm] for arm in options.arms}
    for arm, own in by_arm.items():
        if own:
            volumes = [statistics.median(volume_at(r["curve"], m * total) for r in own) for m in MOMENTS]
            finals = [r["final"] for r in own]
            print(f"{arm:<12}{len(own):>6}{statistics.median(r['trainings'] for r in own):>9.0f}", end="")
            print("".join(f"{volume:>8.4f}" for volume in volumes), end="")
            print(f"{statistics.median(finals):>9.4f}{min(finals):>8.4f}-{max(finals):.4f}")
    rivals = {arm: own for arm, own in by_arm.items() if own and arm != options.arms[0]}
    for arm, own in rivals.items():
        aim = statistics.median(volume_at(r["curve"], total) for r in own)
        times = []
        for result in by_arm[options.arms[0]]:
            reached = [elapsed for elapsed, volume in result["curve"] if volume >= aim]
            times.append(min(reached, default=float("inf")) / total)
        if times:
            shares = ", ".join(f"{share:.2f}" for share in times)
            print(f"{options.arms[0]} has the final validation hypervolume of {arm} after {shares} of the time")


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images or the name of a data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--minutes", type=float, default=12.0, help="wall time of an arm")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--front", type=int, default=8, help="networks of a front that are trained identically")
    parser.add_argument("--final-epochs", type=float, default=10.0)
    parser.add_argument("--parallel", type=int, default=2, help="arms at once; at most the cores of the machine")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="print what there is and stop")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        arm, _, seed = options.only.partition(":")
        run_arm(arm, int(seed), options)
        return
    if not options.report:
        run_all(options)
    report(options)


if __name__ == "__main__":
    main()
