"""Does an exported file do what the network does? Run in ONNX Runtime, over real images, before anybody ships it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from spaces.errors import ExportError

#: Largest difference of a softmax between PyTorch and the file.
TOLERANCE = 1e-4

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """How two sets of logits for the same images differ.

    Attributes:
        max_abs_error: Largest difference of a softmax.
        flips: Images with another first class.
        unexplained: Of these, those where the first set's margin is at least twice the difference.
    """

    max_abs_error: float
    flips: int
    unexplained: int


def run_file(file: Path, images: torch.Tensor, batch: int) -> Logits:
    """Logits of an exported file for uint8 images (N, C, H, W), a batch at a time; the last one is filled up."""
    import onnxruntime  # only the end of a run needs it

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    parts = []
    for start in range(0, len(images), batch):
        pixels = images[start : start + batch].cpu().float().div(255).numpy()
        filled = np.concatenate([pixels, np.zeros((batch - len(pixels), *pixels.shape[1:]), np.float32)])
        parts.append(session.run(["logits"], {"image": filled})[0][: len(pixels)])
    return np.concatenate(parts)


def compare(expected: Logits, found: Logits) -> Parity:
    """Compare logits, (N, classes) each.

    >>> compare(np.array([[2.0, 1.0]]), np.array([[2.0, 1.0]]))
    Parity(max_abs_error=0.0, flips=0, unexplained=0)
    """
    first, second = _softmax(expected), _softmax(found)
    difference = np.abs(first - second).max(axis=1)
    top = np.sort(first, axis=1)
    margin = top[:, -1] - top[:, -2]
    flipped = first.argmax(axis=1) != second.argmax(axis=1)
    return Parity(float(difference.max()), int(flipped.sum()), int((flipped & (margin >= 2 * difference)).sum()))


def check(parity: Parity, file: Path) -> None:
    """Refuse a file that does not do what its network does.

    Raises:
        ExportError: The softmax differs by more than `TOLERANCE`, or the first class without a close call.
    """
    if not parity.max_abs_error <= TOLERANCE or parity.unexplained:
        raise ExportError(
            f"{file.name} differs from its network: softmax by {parity.max_abs_error:.2g} (at most {TOLERANCE:g} is "
            f"allowed), first class on {parity.flips} images, {parity.unexplained} of them no close call"
        )


def _softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    scaled: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return scaled
