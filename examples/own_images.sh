#!/usr/bin/env bash
# From a folder of images to a chosen ONNX file, with the command line alone. The folder is made here from scikit-learn's
# digits: one folder a class, as ImageFolder wants it.
set -euo pipefail
work=$(mktemp -d)
python - "$work/images" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    folder = Path(sys.argv[1]) / f"digit-{label}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(folder / f"{i:04d}.png")
PYTHON
echo 'training: {flip: false}  # a mirrored digit is another one' > "$work/spec.yaml"
hwnas search "$work/spec.yaml" --data "$work/images" --out "$work/run" --budget 40s --quiet
hwnas front "$work/run"
hwnas select "$work/run" --max params=100k
python "$work/run/predict.py" "$work"/run/front/01-*.onnx "$work/images/digit-3"/00[0-2]3.png
rm -r "$work"
