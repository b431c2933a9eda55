"""Does an exported file do what the network does? Run in ONNX Runtime, over real images, before anybody ships it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from latency.deployment import usable_cores
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
    """

    max_abs_error: float
    flips: int


def run(content: bytes, images: torch.Tensor, batch: int, threads: int = 1) -> Logits:
    """Class scores by an exported file, in ONNX Runtime on the processor.

    Args:
        content: Of the file.
        images: uint8 (N, C, H, W); the last batch is filled up.
        batch: Images at a time, as the file wants them.
        threads: Of one inference; as many inferences run at once as there are cores for.
    """
    import onnxruntime  # only the end of a run needs it

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def logits(start: int) -> Logits:
        pixels = images[start : start + batch].cpu().numpy().astype(np.float32) / np.float32(255)
        filled = np.concatenate([pixels, np.zeros((batch - len(pixels), *pixels.shape[1:]), np.float32)])
        found: Logits = session.run(["logits"], {"image": filled})[0]
        return found[: len(pixels)]

    with ThreadPoolExecutor(max(1, usable_cores() // threads)) as pool:
        return np.concatenate(list(pool.map(logits, range(0, len(images), batch))))


def compare(expected: Logits, found: Logits) -> Parity:
    """Compare logits, (N, classes) each.

    >>> compare(np.array([[2.0, 1.0]]), np.array([[2.0, 1.0]]))
    Parity(max_abs_error=0.0, flips=0)
    """
    first, second = _softmax(expected), _softmax(found)
    flipped = first.argmax(axis=1) != second.argmax(axis=1)
    return Parity(float(np.abs(first - second).max()), int(flipped.sum()))


def check(parity: Parity, file: Path) -> None:
    """Refuse a file that does not do what its network does.

    The first class needs no rule of its own: it can differ only where the network's margin, the softmax of its first
    class less that of its second, is at most twice the difference.

    Raises:
        ExportError: The softmax differs by more than `TOLERANCE`.
    """
    if not parity.max_abs_error <= TOLERANCE:
        raise ExportError(
            f"{file.name} differs from its network: softmax by {parity.max_abs_error:.2g} (at most {TOLERANCE:g} is "
            f"allowed), first class on {parity.flips} images"
        )


def _softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    scaled: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return scaled
