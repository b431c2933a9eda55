"""A run folder: a study is begun in it, or taken up again."""

import math
import time
from pathlib import Path

from hwnas.progress import Progress, Quiet
from hwnas.quantities import format_duration
from hwnas.sections import parse_budget
from hwnas.spec import Spec
from hwnas.store import Store
from hwnas.study import SPEC_FILE, Study, load
from hwnas.target import TABLE_FILE
from objectives.datasets import dataset_name
from spaces.errors import DataError, HwnasError, SpecError, StoreError


def search(spec: Spec, out: str | Path, progress: Progress | None = None) -> Path:
    """Run a whole study in a new folder.

    Args:
        spec: What to search, for what, how long.
        out: The run folder; must not hold a study yet.
        progress: Is told how it goes; None: nobody.

    Returns:
        The run folder.

    Raises:
        HwnasError: The data, the device, the limits or the folder do not allow it; the message says what to do.
    """
    out, progress = Path(out), progress or Quiet()
    if Store.exists(out):
        raise StoreError(f"{out} holds a study already. Go on with 'hwnas resume {out}' or name another folder.")
    began = time.monotonic()
    spec = _found_from_anywhere(spec)
    if dataset_name(spec.data.source) is None and out.resolve().is_relative_to(spec.data.source):
        # it would be taken for a class at the next start
        raise StoreError(f"{out} lies in the folder of the images; name a run folder elsewhere by --out")
    before = set(out.glob(f"*{TABLE_FILE}*"))
    with progress, Store.create(out, spec.to_json()) as store:
        try:
            study = Study(spec, load(spec, progress), store, progress, began)
        except HwnasError:  # nothing was trained; with a better specification the same folder will do
            for file in set(out.glob(f"*{TABLE_FILE}*")) - before:  # its check is of a space that cannot be
                file.unlink()
            store.discard()
            raise
        study.run()
    return out


def resume(
    out: str | Path, progress: Progress | None = None, budget: str | float | None = None, data: str | None = None
) -> Path:
    """Go on with an interrupted study, or with a finished one that gets more time.

    Args:
        out: The run folder.
        progress: Is told how it goes.
        budget: A new one for the whole study, what it has used included, as in a specification: ``"1h"``, seconds as
            a float, or a number of trainings; None keeps the old one.
        data: Where the images are now, if they were moved.

    Returns:
        The run folder.

    Raises:
        HwnasError: As for :func:`search`, or the data is not what the study began with.
    """
    out, progress = Path(out), progress or Quiet()
    began = time.monotonic()
    with progress, Store.open(out, write=True) as store:
        spec = store.read("spec", Spec.from_json)
        if _edited(out / SPEC_FILE, spec):
            progress.note(f"{out / SPEC_FILE} was edited, which changes nothing: a study goes on as it began")
        if budget is not None:
            wanted = parse_budget(budget)
            used = store.read("seconds used", float, 0.0)
            trained = sum(result is not None for _, result in store.trials())
            if (wanted.time or math.inf) <= used or (wanted.trainings or math.inf) <= trained:
                had = format_duration(math.ceil(used)) if wanted.time else f"{trained} trainings"
                raise SpecError(
                    f"budget is {wanted} for the whole study, but {out} has used {had} of it already; give it more"
                )
            spec = spec.resolve({"budget": wanted.model_dump()})
        if data is not None:
            spec = _found_from_anywhere(spec.resolve({"data.source": data}))
        elif dataset_name(spec.data.source) is None and not Path(spec.data.source).is_dir():
            raise DataError(f"there is no folder {spec.data.source} any more; say where the images are by --data")
        study = Study(spec, load(spec, progress), store, progress, began)
        store.put("spec", spec.to_json())
        study.run()
    return out


def _found_from_anywhere(spec: Spec) -> Spec:
    """With absolute paths of the images' folder and the latency tables: a resume may come from elsewhere."""
    tables = {name: str(Path(file).expanduser().resolve()) for name, file in spec.latency.items()}
    spec = spec.resolve({"latency": tables})
    folder = Path(spec.data.source).expanduser()
    if dataset_name(spec.data.source) is None and folder.is_dir():
        return spec.resolve({"data.source": str(folder.resolve())})
    return spec


def _edited(file: Path, spec: Spec) -> bool:
    """Whether a file no longer says what it was written to say."""
    try:
        return file.exists() and Spec.load(file) != spec
    except SpecError:
        return True
