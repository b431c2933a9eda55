"""Export: the models of a run and what they need, in a folder of their own."""

import shutil
from pathlib import Path

from hwnas import manifest as manifests
from hwnas.manifest import Manifest
from spaces.errors import SpecError, StoreError


def copy_models(manifest: Manifest, source: Path, target: Path) -> None:
    """Copy the models of `manifest` from `source` into `target`, beside the manifest and predict.py.

    Raises:
        SpecError: `target` is a file, or a folder that is not empty; or there is nothing to copy.
        StoreError: a file is missing or is not the one that was verified.
        OSError: `target` cannot be written.
    """
    if not manifest.models:
        raise SpecError("the front is empty, so there is nothing to export: no model was trained to the end")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SpecError(f"{target} is not an empty folder; name a new one")
    if problem := manifests.problem(manifest.models, source):
        raise StoreError(f"{problem}; restore it from a copy, or write it anew with 'hwnas resume'")
    target.mkdir(parents=True, exist_ok=True)
    for model in manifest.models:
        shutil.copyfile(source / model.file, target / model.file)
    copy_predict(target)
    manifests.write(manifest, target)


def copy_predict(folder: Path) -> Path:
    """Put ``predict.py``, which labels an image from an ONNX file alone, into `folder`."""
    return Path(shutil.copyfile(Path(__file__).with_name("predict.py"), folder / "predict.py"))
