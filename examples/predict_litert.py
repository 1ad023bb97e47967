"""Classify pictures with a LiteRT file of nf_zoo; needs ai-edge-litert, numpy and Pillow.

python predict_litert.py model.tflite picture.jpg [picture.jpg ...]
"""

import argparse
import json
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


def prepare(path: str, settings: dict, raw: bool, channels: int) -> np.ndarray:
    """(1, H, W, channels) float32, resized, cropped and normalized as in evaluation."""
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
    mean, std = np.float32(settings["mean"]), np.float32(settings["std"])
    if channels == 1:
        pixels = pixels @ np.float32([[0.299], [0.587], [0.114]])
        mean, std = mean.mean(), std.mean()
    if not raw:
        pixels = (pixels / 255 - mean) / std
    return pixels[None]


def arguments() -> argparse.Namespace:
    what, usage = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=what, epilog=usage)
    parser.add_argument("file", help="what nf_zoo.export_litert wrote")
    parser.add_argument("pictures", nargs="+", help="picture files")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    # The file is a zip archive too, which holds its metadata.
    with zipfile.ZipFile(given.file) as archive:
        properties = json.loads(archive.read("metadata.json"))
        labels = properties["labels"]
    if not labels:
        raise SystemExit(f"this example needs a network with a classifier: {given.file}")
    network = Interpreter(model_path=given.file).get_signature_runner()
    entry = network.get_input_details()["images"]
    answer = network.get_output_details()[properties["output"]]
    for picture in given.pictures:
        raw, channels = properties["input"] == "pixels", entry["shape"][-1]
        pixels = prepare(picture, properties["preprocessing"], raw, channels)
        if entry["dtype"] == np.int8:
            scale, zero = entry["quantization"]
            pixels = np.clip(np.round(pixels / scale) + zero, -128, 127).astype(np.int8)
        scores = network(images=pixels)[properties["output"]][0]
        if scores.dtype == np.int8:
            scale, zero = answer["quantization"]
            scores = np.float32(scale) * (scores - np.float32(zero))
        if properties["output"] == "logits":
            # A single logit stands against 0.
            rivals = np.append(scores, 0) if scores.size == 1 else scores
            scores = np.exp(scores - rivals.max()) / np.exp(rivals - rivals.max()).sum()
        print(picture)
        for index in np.argsort(-scores)[:5]:
            print(f"  {scores[index]:.4f} {labels[index]}")


if __name__ == "__main__":
    main()
