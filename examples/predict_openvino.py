"""Classify pictures with an OpenVINO file of nf_zoo; needs openvino, numpy and Pillow.

python predict_openvino.py model.xml picture.jpg ...
"""

import argparse
import json

import numpy as np
import openvino
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
    parser.add_argument("file", help="what nf_zoo.export_openvino wrote")
    parser.add_argument("pictures", nargs="+", help="picture files")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    network = openvino.Core().read_model(given.file)
    names = ("labels", "preprocessing", "input", "output")
    about = {name: network.get_rt_info(["framework", name]).astype(str) for name in names}
    labels = json.loads(about["labels"])
    settings = json.loads(about["preprocessing"])
    if not labels:
        raise SystemExit(f"this example needs a network with a classifier: {given.file}")
    channels = network.input().partial_shape[3].get_length()
    # The shape is known: OpenVINO need not prepare for others.
    network.reshape((1, *settings["input_size"], channels))
    # "f32" keeps float32 on processors on which OpenVINO takes bfloat16, which is faster there.
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    raw = about["input"] == "pixels"
    for picture in given.pictures:
        scores = compiled(prepare(picture, settings, raw, channels))[0][0]
        if about["output"] == "logits":
            # A single logit stands against 0.
            rivals = np.append(scores, 0) if scores.size == 1 else scores
            scores = np.exp(scores - rivals.max()) / np.exp(rivals - rivals.max()).sum()
        print(picture)
        for index in np.argsort(-scores)[:5]:
            print(f"  {scores[index]:.4f} {labels[index]}")


if __name__ == "__main__":
    main()
