"""The command line: each command reads its options, calls the rooms and prints.

Whatever the user can cause ends in one sentence on standard error and exit code 2; 1 means that nothing fits the
limits, 130 that the command was interrupted. Anything else is a bug, and shows its traceback.
"""

import json
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import typer
from typer.core import TyperGroup

from hwnas import advice, disk, latencycli, progress, report
from hwnas import manifest as manifests
from hwnas.export import copy_models
from hwnas.quantities import parse_quantity
from hwnas.searchsection import StrategyName
from hwnas.sections import parse_budget
from hwnas.selection import Percentile, select
from hwnas.spec import Spec
from hwnas.store import Store
from spaces.errors import HwnasError, SpecError, StoreError

# What needs torch, ONNX Runtime or pandas is imported inside the commands: `hwnas --help` answers at once.

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it: 128 and the number of the signal."""

Run: TypeAlias = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Max: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--max",
        metavar="K=V",
        help="Limit, such as latency=3ms or params=200k, in place of the search's own on it; repeat for more.",
    ),
]
Device: TypeAlias = Annotated[str | None, typer.Option(help="Which device latency means, where a run has several.")]


class Commands(TyperGroup):
    """The one place where errors become sentences."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept ``--debug`` anywhere on the line."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error of the user's or the machine's ends it with a sentence and exit code 2."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
            raise typer.Exit from error
        except (HwnasError, OSError) as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            _complain(f"error: {error if isinstance(error, HwnasError) else disk.explain(error)}")
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interrupt:
            if ctx.params["debug"]:
                traceback.print_exc()
            _complain("interrupted")
            raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def main() -> None:
    """Entry point of the program ``hwnas``."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # sent by schedulers and containers; means Ctrl-C
    app(prog_name="hwnas")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"hwnas {version('hwnas')}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print it.")
    ] = False,
) -> None:
    """From a folder of labelled images and a device to a Pareto front of trained, verified ONNX models."""


# Searching


@app.command()
def search(
    spec: Annotated[Path | None, typer.Argument(metavar="SPEC.yaml", help="Default: digits, two minutes.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of images, or digits, cifar10, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="New run folder; default: runs/DATA-TIME.")] = None,
    budget: Annotated[str | None, typer.Option(help="Duration such as 30m, or a number of trainings.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"How candidates are proposed: {', '.join(get_args(StrategyName))}."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side that images are resized to.")] = None,
    metric: Annotated[str | None, typer.Option(help="accuracy or balanced-accuracy.")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Such as latency=3ms; repeat for more.")
    ] = None,
    latency: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TABLE", help="A device and its latency table; repeat for more.")
    ] = None,
    allow_estimates: Annotated[
        bool, typer.Option("--allow-estimates", help="Of kernels that the table of a device elsewhere lacks.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads for training; default: measured.")] = None,
    quiet: Quiet = False,
) -> None:
    """From images and this machine to a front of ONNX models.

    A specification holds more settings; spec.yaml of any run lists them, with what they mean.
    """
    chosen = Spec.load(spec) if spec else Spec()
    options = {
        "data.source": data,
        "data.image_size": image_size,
        "data.metric": metric,
        "budget": budget,
        "search.strategy": strategy,
        "seed": seed,
        "threads": threads,
        "limits": {**chosen.to_json()["limits"], **_pairs(limit)},
        "latency": {**chosen.latency, **_pairs(latency, _TABLE)},
        "allow_estimates": allow_estimates or chosen.allow_estimates,
    }
    chosen = chosen.resolve({key: value for key, value in options.items() if value is not None})
    run = out or default_folder(chosen.data.source)
    if Store.exists(run):  # said at once, before torch is loaded
        raise StoreError(f"{run} holds a study already. Go on with 'hwnas resume {run}' or name another folder.")
    with _resumable(run):
        from hwnas import runfolder

        runfolder.search(chosen, run, progress.choose(quiet))
    _show_run(run)


@app.command()
def resume(
    run: Run,
    budget: Annotated[
        str | None,
        typer.Option(help="New one of the whole run, what it has used included: 1h, or a number of trainings."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Where the images are now, if they were moved.")] = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a search, or give a finished one more time."""
    if budget is not None:
        parse_budget(budget)  # what is wrong with it is said at once, before torch is loaded
    with _resumable(run):
        from hwnas import runfolder

        runfolder.resume(run, progress.choose(quiet), budget, data)
    _show_run(run)


@contextmanager
def _resumable(run: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        kept = (run / "study.db").exists()
        _complain(
            f"interrupted; all finished trainings are kept, go on with: hwnas resume {shlex.quote(str(run))}"
            if kept
            else "interrupted before the search began; nothing was kept"
        )
        raise typer.Exit(INTERRUPTED) from interrupt


def default_folder(source: str) -> Path:
    """Where a search goes if nobody says so: ``runs/`` and the data's name, with the time.

    >>> str(default_folder("/data/My Flowers/"))[:16]
    'runs/my-flowers-'
    """
    name = re.sub(r"[^a-z0-9]+", "-", Path(source).resolve().name.lower()).strip("-")
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _show_run(run: Path) -> None:
    manifest = manifests.read(run)
    out = report.console()
    out.print()
    out.print(report.table(manifest))
    out.print(f"\n{_count(len(manifest.models), 'model')} in {run / manifests.FRONT}; see also front.csv and front.png")
    if manifest.not_trained:
        files = {model.id: Path(model.file).stem for model in manifest.models}
        for one in manifest.not_trained:
            out.print(f"{files.get(one.id, one.id[:8])} was not trained to the end: {one.reason}", soft_wrap=True)
    if example := report.example_limit(manifest):
        out.print(f"Choose one:  hwnas select {shlex.quote(str(run))} --max {example}", soft_wrap=True)


# Looking at a run


@app.command()
def front(run: Run, as_json: Annotated[bool, typer.Option("--json", help="The manifest.")] = False) -> None:
    """Show the front of a run: table and hypervolume."""
    manifest = manifests.read(run)
    if as_json:
        print(manifest.model_dump_json(indent=2))
        return
    out = report.console()
    out.print(report.table(manifest))
    if manifest.hypervolume is not None:
        out.print(f"\nhypervolume {manifest.hypervolume:.4f}")
    if (picture := run / "front.png").is_file():
        out.print(f"picture {picture}", soft_wrap=True)


@app.command("select")
def select_command(
    run: Run,
    limits: Max = None,
    device: Device = None,
    percentile: Annotated[int, typer.Option(help="Of the measured latency: 50 or 95.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="The selection, with all that is known of each.")] = False,
) -> None:
    """Print the model to ship: the most accurate within limits.

    And the next cheaper and the next better, with what they cost; where nothing fits, the nearest miss and exit code 1.
    A model over one of the search's own limits is picked only if --max gives that very limit anew.
    """
    selection = select(manifests.read(run), _limits(limits), device=device, percentile=_percentile(percentile))
    folder = manifests.path_in(run).parent
    if selection.best is not None and (problem := manifests.problem([selection.best.model], folder)):
        raise StoreError(f"{problem}; write it anew with 'hwnas resume {run}'")
    if as_json:
        print(json.dumps(advice.to_json(selection, folder), indent=2))
    else:
        print("\n".join(advice.lines(selection, folder)))
    if selection.best is None:
        raise typer.Exit(1)


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="New or empty folder.", show_default=False)],
    limits: Max = None,
    device: Device = None,
) -> None:
    """Copy the models, their manifest and predict.py elsewhere.

    All models, or with --max the one that select picks.
    """
    manifest = manifests.read(run)
    if limits:
        selection = select(manifest, _limits(limits), device=device)
        if selection.best is None:
            print("\n".join(advice.lines(selection, manifests.path_in(run).parent)))
            raise typer.Exit(1)
        manifest = manifest.model_copy(update={"models": [selection.best.model]})
    copy_models(manifest, manifests.path_in(run).parent, out)
    name = shlex.quote(str(out))
    print(f"{_count(len(manifest.models), 'model')} in {out}")
    print(f"Try:  python {name}/predict.py {name}/{manifest.models[0].file} IMAGE")


# Latency

for _command in (latencycli.profile, latencycli.check, latencycli.predict, latencycli.bundle, latencycli.unbundle):
    app.command()(_command)


# Reading options, printing


_LIMIT = "limit; write a quantity and its largest value, such as latency=3ms"
_TABLE = "device with a table; write the name and the file, such as board=board.csv"


def _limits(texts: list[str] | None) -> dict[str, float]:
    """``["latency=3ms"]`` in base units.

    >>> _limits(["latency=3ms", "params=200k"])
    {'latency': 3.0, 'params': 200000.0}
    """
    return {name: parse_quantity(name, value) for name, value in _pairs(texts).items()}


def _pairs(texts: list[str] | None, rule: str = _LIMIT) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"{text!r} is no {rule}")
        pairs[name.strip()] = value.strip()
    return pairs


def _percentile(number: int) -> Percentile:
    if number == 50:
        return 50
    if number == 95:
        return 95
    raise SpecError(f"--percentile is {number}; measured are 50 (the median) and 95")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _complain(text: str) -> None:
    print(text, file=sys.stderr)
