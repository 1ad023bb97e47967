"""Classify pictures with an ONNX file of nf_zoo; needs onnxruntime, numpy and Pillow.

python predict_onnx.py model.onnx picture.jpg [picture.jpg ...]
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepare(path: str, settings: dict, raw: bool) -> np.ndarray:
    """(1, H, W, 3) float32, resized, cropped and normalized as the weights were evaluated."""
    image = Image.open(path)
    if image.mode.startswith(("I", "F")):  # Pillow would cut off all that is above 255
        raise SystemExit(f"this example does not read 16-bit gray, nf_zoo.preprocess does: {path}")
    # The network saw pictures upright by EXIF or XMP, and transparency over white.
    image = ImageOps.exif_transpose(image).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    height, width = settings["input_size"]
    scaled = [int(side / settings["crop_fraction"]) for side in (height, width)]
    if settings["crop_mode"] == "center":
        # The picture covers the scaled size; what is longer loses its ends.
        ratio = min(image.height / scaled[0], image.width / scaled[1])
        whole = int if scaled[0] == scaled[1] else round
        scaled = [whole(side / ratio + 1e-6) for side in (image.height, image.width)]
    elif settings["crop_mode"] != "squash":
        raise SystemExit(f"this example does not know crop_mode {settings['crop_mode']!r}")
    resampling = Image.Resampling[settings["interpolation"].upper()]
    image = image.resize((scaled[1], scaled[0]), resampling)
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32)
    if not raw:
        mean, std = np.float32(settings["mean"]), np.float32(settings["std"])
        pixels = (pixels / 255 - mean) / std
    return pixels[None]


def arguments() -> argparse.Namespace:
    what, usage = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=what, epilog=usage)
    parser.add_argument("file", help="what nf_zoo.export_onnx wrote")
    parser.add_argument("pictures", nargs="+", help="picture files")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    options = onnxruntime.SessionOptions()
    # Sums of eight-bit products may saturate on processors without VNNI, but for this.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(given.file, options, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    labels = json.loads(properties["labels"])
    settings = json.loads(properties["preprocessing"])
    for picture in given.pictures:
        pixels = prepare(picture, settings, raw=properties["input"] == "pixels")
        scores = session.run(None, {session.get_inputs()[0].name: pixels})[0][0]
        if properties["output"] == "logits":
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        print(picture)
        for index in np.argsort(-scores)[:5]:
            print(f"  {scores[index]:.4f} {labels[index]}")


if __name__ == "__main__":
    main()
