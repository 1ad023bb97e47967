"""Accuracy and size of the shipped CIFAR-10 (JPEG) network in every exported form.

    python -m training.prepare --source=cifar10-jpeg.tar.xz --splits=train,test --output=cifar10.npz
    python -m benchmarks.eight_bits cifar10.npz

Eight-bit files are calibrated on the first pictures of the training set, all of one class. ONNX
files run without and with ONNX Runtime's option for processors that lack VNNI. Writes
benchmarks/eight_bits.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import nf_zoo
from benchmarks.tables import write_table
from nf_zoo.deploy import litert_file, onnx_file
from nf_zoo.deploy.exporting import output_names
from training import provenance
from training.data.arrays import read_arrays

BATCH = 250
EIGHT_BITS = ((256, 0), (1024, 0), (256, 1))
"""(pictures to calibrate on, layers kept in float32)."""
EXACT = {"session.x64quantprecision": "1"}
"""Avoids sums of two products in 16 bits, which may saturate, on processors without VNNI."""


def vnni() -> bool:
    """Return True if the processor has instructions that sum products of eight bits in 32."""
    words = Path("/proc/cpuinfo")
    return words.is_file() and "vnni" in words.read_text()


def accuracy(answer, inputs: np.ndarray, classes: np.ndarray) -> float:
    """Return the percentage of the pictures that are classified correctly."""
    right = 0
    for start in range(0, len(inputs), BATCH):
        (logits,) = answer(inputs[start : start + BATCH])
        right += int(np.sum(logits.argmax(-1) == classes[start : start + BATCH]))
    return round(100 * right / len(inputs), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", help="the .npz file of training.prepare")
    parser.add_argument("--output", default=Path(__file__).with_name("eight_bits.csv"))
    args = parser.parse_args()
    data = read_arrays(args.pictures)
    model = nf_zoo.NFResNet14(pretrained="cifar10")
    images, classes = data.test
    inputs = np.asarray(nf_zoo.preprocess(images, model))

    rows = []
    origin = {"commit": provenance.commit(), "processor": provenance.processor()}

    def tried(form, precision, path, answer, calibrated="", kept="", option=""):
        rows.append(
            {
                **{"format": form, "precision": precision, "session option": option},
                **{"calibrated on": calibrated, "kept in float32": kept},
                "accuracy (%)": accuracy(answer, inputs, classes),
                **{"bytes": path.stat().st_size, "vnni": vnni(), **origin},
            }
        )

    with tempfile.TemporaryDirectory() as folder:
        for form in ("onnx", "litert"):
            plain = ("float32",) if form == "onnx" else ("float32", "float16")
            choices = [(precision, None, 0) for precision in plain]
            choices += [("int8", count, kept) for count, kept in EIGHT_BITS]
            for number, (precision, count, kept) in enumerate(choices):
                path = Path(folder) / f"{number}.{'onnx' if form == 'onnx' else 'tflite'}"
                options = {"precision": precision}
                if count:
                    options |= {"pictures": data.train[0][:count], "keep_float": kept}
                if form == "onnx":
                    nf_zoo.export_onnx(model, path, **options)
                    answer = onnx_file.runner(path)
                    if count:
                        exact = onnx_file.runner(path, **EXACT)
                        tried(form, precision, path, exact, count, kept, "x64quantprecision=1")
                else:
                    nf_zoo.export_litert(model, path, **options)
                    answer = litert_file.runner(path, output_names(model))
                tried(form, precision, path, answer, count or "", kept if count else "")
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
