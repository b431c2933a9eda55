"""Label images with an exported network: ``python predict.py MODEL.onnx IMAGE ...``.

Needs onnxruntime, numpy and Pillow only. Images are prepared as they were for training: upright, transparency on a
white page, the whole image resized. A file that is no image is named on standard error, and the exit code is 1.
"""

import json
import os
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepared(name: str, channels: int, height: int, width: int) -> np.ndarray:
    """Pixels of an image file in 0..1, float32 of shape (1, channels, height, width)."""
    with Image.open(name) as file:
        file.draft(None, (2 * width, 2 * height))  # a large JPEG is decoded at a fraction of its size
        image = ImageOps.exif_transpose(file)
    if image.mode[0] in "IF":  # grey of 16 bits, else there is no telling what is white
        grey = np.asarray(image)
        if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
            raise ValueError("neither 8 nor 16 bits deep, as networks are trained on; convert it to one of them")
        image = Image.fromarray(((grey.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB").convert("L" if channels == 1 else "RGB")
    square = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(square, np.float32).reshape(1, height, width, channels).transpose(0, 3, 1, 2) / 255


def main(model: str, *images: str) -> int:
    """Print name, label and probability of each image file; 1 if one could not be read."""
    if not model.endswith(".onnx"):
        sys.exit(f"{model} is no .onnx file; the model comes first, then the images")
    if not os.path.isfile(model):
        sys.exit(f"there is no file {model}")
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    except Exception as error:  # the runtime's errors have no base of their own
        sys.exit(f"{model} is not a model of hwnas's, or damaged: {error}")
    batch, *shape = session.get_inputs()[0].shape
    failed = 0
    for name in images:
        try:
            pixels = prepared(name, *shape)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
            continue
        copies = batch if isinstance(batch, int) else 1  # a file for a fixed batch gets the image that often
        logits = session.run(["logits"], {"image": np.repeat(pixels, copies, axis=0)})[0][0]
        odds = np.exp(logits - logits.max())
        print(f"{name}\t{classes[odds.argmax()]}\t{odds.max() / odds.sum():.1%}")
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
