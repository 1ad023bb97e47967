"""Say what a picture shows with a SavedModel of nf_zoo; needs tensorflow alone.

python predict_saved_model.py folder picture.jpg
"""

import sys

import tensorflow as tf


def main() -> None:
    folder, picture = sys.argv[1:]
    loaded = tf.saved_model.load(folder)
    # Decoding, resizing and normalization are in the graph: the picture is turned upright by EXIF
    # or XMP, and transparency is laid over white.
    encoded = tf.constant([tf.io.read_file(picture).numpy()])
    answer = loaded.signatures["serving_bytes"](image_bytes=encoded)
    if not answer["valid"][0]:
        raise SystemExit(f"{picture} is damaged, or of a format that TensorFlow does not decode")
    for label, score in zip(answer["labels"][0].numpy(), answer["scores"][0].numpy(), strict=True):
        print(f"{score:.4f} {label.decode()}")


if __name__ == "__main__":
    main()
