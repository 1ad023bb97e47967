"""Classify pictures with a SavedModel of nf_zoo; needs only tensorflow.

python predict_saved_model.py folder picture.jpg [picture.jpg ...]
"""

import argparse

import tensorflow as tf


def arguments() -> argparse.Namespace:
    what, usage = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=what, epilog=usage)
    parser.add_argument("folder", help="what nf_zoo.export_saved_model wrote")
    parser.add_argument("pictures", nargs="+", help="picture files")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    loaded = tf.saved_model.load(given.folder)
    if "labels" not in loaded.signatures["serving_bytes"].structured_outputs:
        raise SystemExit(f"this example needs a network with a classifier: {given.folder}")
    # Decoding, resizing and normalization are in the graph: the picture is turned upright by EXIF
    # or XMP, and transparency is laid over white.
    encoded = tf.constant([tf.io.read_file(picture).numpy() for picture in given.pictures])
    answer = loaded.signatures["serving_bytes"](image_bytes=encoded)
    answers = (answer[name].numpy() for name in ("valid", "labels", "scores"))
    for picture, valid, labels, scores in zip(given.pictures, *answers, strict=True):
        print(picture)
        if not valid:
            print("  damaged, or of a format that TensorFlow does not decode")
            continue
        for label, score in zip(labels, scores, strict=True):
            print(f"  {score:.4f} {label.decode()}")


if __name__ == "__main__":
    main()
