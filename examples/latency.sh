#!/usr/bin/env bash
# The latency of networks on this machine, and on a board that has onnxruntime and numpy only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Any ONNX file will do; these two are random ones.
python - <<'PYTHON'
import numpy as np
import onnx

from spaces.onnx import to_onnx
from spaces.plain import PlainSpace
from spaces.state import initial_state

space = PlainSpace((3, 32, 32), classes=10, max_width=32)
for name, seed in (("a", 0), ("b", 1)):
    arch = space.sample(np.random.default_rng(seed))
    onnx.save(to_onnx(arch, initial_state(arch).value), f"{name}.onnx")
PYTHON

# This machine: a table, whether it is to be trusted, and what networks take.
hwnas profile -o here.csv
hwnas check here.csv
hwnas predict here.csv b.onnx --allow-estimates
hwnas predict here.csv a.onnx b.onnx --json

# A board; here it is this machine, in a folder of its own.
hwnas bundle board.zip --for a.onnx b.onnx
mkdir first second
(cd first && python -m zipfile -e ../board.zip . && python run_bundle.py)
hwnas unbundle first/result.zip -o board.csv
(cd second && python -m zipfile -e ../board-kernels.zip . && python run_bundle.py)
hwnas unbundle second/result.zip -o board.csv
hwnas predict board.csv a.onnx b.onnx
