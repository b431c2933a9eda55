"""Label images with an exported network: ``python predict.py MODEL.onnx IMAGE ...``.

Needs onnxruntime, numpy and Pillow only. Images are prepared as they were for training: upright, transparency on a
white page, the whole image resized.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, *images: str) -> None:
    """Print name, label and probability of each image file."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    batch, channels, height, width = session.get_inputs()[0].shape
    for name in images:
        with Image.open(name) as file:
            file.draft(None, (2 * width, 2 * height))  # a large JPEG is decoded at a fraction of its size
            image = ImageOps.exif_transpose(file)
        if image.mode[0] in "IF":  # grey of 16 bits, else there is no telling what is white
            grey = np.asarray(image)
            if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
                sys.exit(f"{name}: neither 8 nor 16 bits deep, as networks are trained on; convert it to one of them")
            image = Image.fromarray(((grey.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB").convert("L" if channels == 1 else "RGB")
        square = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
        pixels = np.asarray(square, np.float32).reshape(1, height, width, channels).transpose(0, 3, 1, 2) / 255
        copies = batch if isinstance(batch, int) else 1  # a file for a fixed batch gets the image that often
        logits = session.run(["logits"], {"image": np.repeat(pixels, copies, axis=0)})[0][0]
        odds = np.exp(logits - logits.max())
        print(f"{name}\t{classes[odds.argmax()]}\t{odds.max() / odds.sum():.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 2 else sys.exit(__doc__)
