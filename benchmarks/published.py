"""A whole run on CIFAR-10, as one command over several calls, beside what LEMONADE published.

Search, final training, export and latency on the device where it runs (a GPU as CUDA graphs, else the processor): the
front by test error and parameters, stock networks that were trained in the same run, and the table of the paper
(Elsken, Metzen, Hutter, ICLR 2019: 80 GPU-days, another copy of the images). Each call stops after --call seconds and
the next goes on; when all is done, it prints:

    python benchmarks/published.py --data CIFAR10_FOLDER --out RUN --budget 20m --call 540

It runs the same without a GPU, in small, with a smaller --budget and --images.
"""

import argparse
import signal
from pathlib import Path

import torch

from hwnas import Spec, read_manifest, resume, search
from hwnas.manifest import FILE_NAME
from latency import Deployment

PUBLISHED = ((0.5e6, 4.57), (1.1e6, 3.69), (4.7e6, 3.05), (13.1e6, 2.58))  # parameters, test error in %


def spec_of(options):
    """What is searched."""
    settings = {
        "data.source": options.data,
        "data.train_limit": options.images,
        "objectives": ["error", "latency", "params", "macs"],
        "budget": options.budget,
        "seed": options.seed,
    }
    if torch.cuda.is_available():
        settings |= {"deployment.runtime": "torch-cudagraph", "deployment.layout": "nhwc"}
    return Spec().resolve(settings)


def interrupted(number, frame):
    """A call's time is over: the same as Ctrl-C."""
    raise KeyboardInterrupt


def main():
    """Go on, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of images or the name of a data set")
    parser.add_argument("--out", type=Path, required=True, help="run folder; a run that is there goes on")
    parser.add_argument("--budget", default="20m", help="of the whole run")
    parser.add_argument("--call", type=int, default=540, help="seconds after which this call stops")
    parser.add_argument("--images", type=int, help="training images; default: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    signal.signal(signal.SIGALRM, interrupted)
    signal.alarm(options.call)
    try:
        if not options.out.exists():
            search(spec_of(options), options.out)
        elif not (options.out / "front" / FILE_NAME).exists():
            resume(options.out)
    except KeyboardInterrupt:
        print("not done yet: call again")
        return
    finally:
        signal.alarm(0)

    manifest = read_manifest(options.out)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else Deployment.here().device
    print(f"{device}, torch {torch.__version__}, {manifest.wall_seconds / 60:.1f} minutes in all")
    print(f"\n{'network':<28}{'parameters':>12}{'MACs':>15}{'test error %':>14}{'ms':>9}{'epochs':>8}")
    rows = [*enumerate(manifest.models, 1), *((one.id, one) for one in manifest.references)]
    for name, one in rows:
        [latency] = one.latency.values()
        ms, test = latency.p50_ms or latency.predicted_ms, one.accuracy.test
        error = "-" if test is None else f"{100 * (1 - test):.2f}"
        print(f"{name!s:<28}{one.params:>12,}{one.macs:>15,}{error:>14}", end="")
        print(f"{'-' if ms is None else f'{ms:.4f}':>9}{one.epochs:>8.0f}")
    for params, error in PUBLISHED:
        print(f"{'LEMONADE, published':<28}{int(params):>12,}{'':>15}{error:>14.2f}")


if __name__ == "__main__":
    main()
