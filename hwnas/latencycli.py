"""The commands on latency tables: build one, ask whether it is to be trusted, predict networks."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from hwnas import progress, report
from spaces.errors import SpecError

if TYPE_CHECKING:
    import onnx

For: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--for", metavar="ONNX...", help="Networks; default: random ones, small and large.")
]
MoreFiles: TypeAlias = Annotated[list[Path] | None, typer.Argument(hidden=True)]  # so that --for takes many files


def profile(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="TABLE", help="CSV to make or extend.", show_default=False)
    ],
    files: For = None,
    more: MoreFiles = None,
    runtime: Annotated[str, typer.Option(help="ort-cpu, torch-cuda (eager) or torch-cudagraph.")] = "ort-cpu",
    threads: Annotated[int, typer.Option(help="Threads of one inference.")] = 1,
    batch: Annotated[
        list[int] | None, typer.Option(help="Images per inference, by default 1; several times for a table of each.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32; on a GPU fp16 or bf16, too.")] = "fp32",
    layout: Annotated[str, typer.Option(help="nchw; on a GPU nhwc (channels last), too.")] = "nchw",
) -> None:
    """Measure kernels on this machine, into a latency table."""
    from latency import Deployment, make_runtime
    from latency import profile as extend
    from latency.shapes import fix_batch

    named = [*(files or []), *(more or [])]
    batches = sorted({*(batch or [1])})
    deployments = [
        Deployment.here(runtime, threads=threads, batch=size, precision=precision, layout=layout) for size in batches
    ]
    # Before anything is measured: whether the networks can be had for each batch.
    of_batch = [[fix_batch(model, size) for model in networks(named, size, seed=0)] for size in batches]
    curve = []
    for deployment, size, models in zip(deployments, batches, of_batch, strict=True):
        path = out if len(batches) == 1 else out.with_name(f"{out.stem}-b{size}{out.suffix}")
        with _kernel_bar() as advance:
            table = extend(make_runtime(deployment), models, path, progress=advance)
        print(f"{path}: {len(table.frame)} kernels of {deployment}")
        names = [model.graph.name for model in models]
        if (table.frame["launch_us"] > 0).any():
            programs = [table.runtime.lower(model) for model in models]
            sums = [table.sums(program.kernels, program.footprint) for program in programs]
            report.console().print(report.launch_table(names, sums))
        print(f"Is it to be trusted?  hwnas check {shlex.quote(str(path))}")
        if len(batches) > 1:
            curve.append(table.predict_many(models))
    if curve:
        report.console().print(report.batch_table(names, batches, curve))


def check(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A latency table of this machine.", show_default=False)
    ],
    files: For = None,
    more: MoreFiles = None,
) -> None:
    """Is a latency table to be trusted? Predicted against measured."""
    from latency import LatencyTable
    from latency import check as hold_against

    loaded = LatencyTable.load(table)
    deployment = loaded.header.deployment
    print(f"{table}: {len(loaded.frame)} kernels of {deployment}")
    # Not the seed of `profile`: a table is to be judged by networks that it was not built for.
    found = hold_against(loaded, networks([*(files or []), *(more or [])], deployment.batch, seed=1))
    report.console().print(report.check_table(found.networks))
    print(found)


def predict(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A latency table.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(metavar="ONNX...", help="Networks, of any origin.")],
    allow_estimates: Annotated[
        bool, typer.Option("--allow-estimates", help="Estimate kernels that the table lacks; nothing is measured.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What networks take on the device of a table."""
    from latency import LatencyTable

    loaded = LatencyTable.load(table)
    known = len(loaded.frame)
    found = loaded.predict_many(_read(files), allow_estimates=allow_estimates)
    if as_json:
        rows = [
            {
                "file": str(file),
                "latency_ms": latency.ms,
                "low_ms": latency.low_ms,
                "high_ms": latency.high_ms,
                "kernels": latency.kernels,
                "estimated_kernels": latency.estimated,
            }
            for file, latency in zip(files, found, strict=True)
        ]
        print(json.dumps(rows, indent=2))
        return
    print(f"{table}: {loaded.header.deployment}, {len(loaded.frame) - known} of {len(loaded.frame)} kernels are new")
    report.console().print(report.prediction_table([str(file) for file in files], found))


def bundle(
    out: Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="The file to make.", show_default=False)],
    files: For = None,
    more: MoreFiles = None,
    threads: Annotated[int, typer.Option(help="Threads of one inference on the device.")] = 1,
    batch: Annotated[int, typer.Option(help="Images per inference.")] = 1,
) -> None:
    """Pack what a device without hwnas needs to measure its latency table."""
    from latency.bundle import pack

    named = [*(files or []), *(more or [])]
    wanted = networks(named, batch, seed=0)
    # Networks of another seed are measured whole, to judge the table by; named ones are judged by themselves.
    pack(out, [] if named else wanted, wanted if named else networks([], batch, seed=1), threads=threads, batch=batch)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB. On the device, in an empty folder:")
    print(f"  unzip {shlex.quote(out.name)} && python run_bundle.py        needs onnxruntime and numpy")
    print("and back here:  hwnas unbundle result.zip -o TABLE.csv")


def unbundle(
    result: Annotated[Path, typer.Argument(metavar="RESULT.zip", help="What came back.", show_default=False)],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="TABLE", help="CSV to make or extend.", show_default=False)
    ],
) -> None:
    """Read what came back: make the bundle of the second trip, or the latency table."""
    from latency import LatencyTable, make_runtime
    from latency.bundle import pack_kernels
    from latency.deployment import Bundled
    from latency.trip import read, table_of

    trip = read(result)
    console = report.console()
    for warning in trip.warnings:
        print(f"Beware: {warning}")
    if trip.number == 1:
        # A table that cannot take what will come back is refused before the second trip, not after it.
        LatencyTable.open(make_runtime(trip.deployment, Bundled(trip.version)), out)
        second = out.with_name(f"{out.stem}-kernels.zip")
        kernels = pack_kernels(second, trip)
        size = second.stat().st_size / 1e6
        print(f"{second}: {kernels} kernels of {trip.deployment}, {size:.1f} MB. There, in an empty")
        print(f"folder:  unzip {shlex.quote(second.name)} && python run_bundle.py")
        print(f"and back here:  hwnas unbundle result.zip -o {shlex.quote(str(out))}")
        return
    table, check = table_of(trip, out)
    print(f"{out}: {len(table.frame)} kernels of {table.header.deployment}, {table.header.version}")
    if check:
        console.print(report.check_table(check.networks))
        print(check)


def networks(files: list[Path], batch: int, seed: int) -> list["onnx.ModelProto"]:
    """Networks from files, or random plain ones: some for small colour images, some for larger ones."""
    if files:
        return _read(files)
    from hwnas.sample import random_networks, untrained_models
    from spaces.plain import PlainSpace

    small = PlainSpace((3, 32, 32), classes=10, max_width=128)
    large = PlainSpace((3, 128, 128), classes=1000, stages=4, stem_stride=2, max_width=512)
    return untrained_models([arch for space in (small, large) for arch in random_networks(space, seed)], batch)


def _read(files: list[Path]) -> list["onnx.ModelProto"]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    models = []
    for file in files:
        try:
            model = onnx.load(file)
        except DecodeError as error:
            raise SpecError(f"{file} is not an ONNX file: {error}") from error
        except (onnx.checker.ValidationError, ValueError) as error:  # weights in a file beside it
            raise SpecError(f"{file} cannot be read with its weights: {error}") from error
        model.graph.name = file.stem
        models.append(model)
    return models


@contextmanager
def _kernel_bar() -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress

    with Progress(console=progress.LastingConsole(stderr=True), transient=True) as bar:
        task = bar.add_task("kernels", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
