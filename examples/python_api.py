"""The same from Python: search, read the manifest, select, and run the chosen file in ONNX Runtime."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

import hwnas

spec = hwnas.Spec().resolve(
    {
        "data.source": "digits",
        "budget": 6,  # trainings
        "search.epochs": 2.0,
        "final.models": 2,
        "final.epochs": 3.0,
        "final.references": False,
    }
)
run = hwnas.search(spec, Path(tempfile.mkdtemp()) / "run")

manifest = hwnas.read_manifest(run)
selection = hwnas.select(manifest, {"params": 100_000})
assert selection.best is not None
model = selection.best.model
print(f"{model.file}: validation accuracy {model.accuracy.val:.2%}, {model.params} parameters")

data = hwnas.load_data("digits", seed=spec.seed)
session = onnxruntime.InferenceSession(str(run / "front" / model.file))
image = data.test.images[:1].numpy().astype(np.float32) / 255  # raw pixels in 0..1: the file normalises by itself
(logits,) = session.run(["logits"], {"image": image})
print(f"predicted {manifest.classes[int(logits.argmax())]}, labelled {data.classes[int(data.test.labels[0])]}")
