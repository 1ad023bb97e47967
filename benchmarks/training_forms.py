"""Training step with different operations for normalization, activation and gradients.

    python -m benchmarks.training_forms
    python -m benchmarks.training_forms --table gradients
    TF_ENABLE_ONEDNN_OPTS=0 python -m benchmarks.training_forms --table without_onednn
    python -m benchmarks.training_forms --table momentum
    python -m benchmarks.training_forms --table conversion

ResNetV2-50 with Keras's batch normalization and with TensorFlow's fused operation, beside
NF-ResNet-50; NFNet-F0 with the GELU of this package and with TensorFlow's. The table of gradients
has this package's gradients of convolutions beside TensorFlow's, and so has that without oneDNN,
which a processor with AVX2 alone leaves off. That of momentum has Keras's update beside that of
this package's optimizers. That of conversion has the networks of Keras beside
themselves without batch normalization. Steps of SGD with momentum: medians and least of turns, and
the processor time of all threads (``busy``). Every network has a process of its own; its memory is
the peak minus the memory before the steps. Writes benchmarks/training_forms.csv, or
training_TABLE.csv.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.speed import keras_networks
from benchmarks.speed.measuring import build, take_turns
from benchmarks.tables import write_table
from training import provenance

OURS, GRADIENTS = "TensorFlow", "TensorFlow, gradients of TensorFlow"
CONVERSIONS = (OURS, "TensorFlow, remove_batch_norm", "TensorFlow, normalizer_free")
GROUPS = {  # table -> ((pixels of a side, pictures, precision, ((network, form), ...)), ...)
    "forms": (
        *(
            (
                *(224, 8, precision),
                (
                    ("nf_resnet50", OURS),
                    ("resnetv2_50", OURS),
                    ("resnetv2_50", "TensorFlow, fused normalization"),
                ),
            )
            for precision in ("float32", "mixed_bfloat16")
        ),
        (
            *(192, 8, "float32"),
            (("nfnet_f0", OURS), ("nfnet_f0", "TensorFlow, GELU of TensorFlow")),
        ),
    ),
    "gradients": tuple(
        (*case, ((network, OURS), (network, GRADIENTS)))
        for network, *case in (
            ("nf_regnet_b1", 224, 8, "float32"),
            ("eca_nfnet_l0", 224, 8, "float32"),
            ("nf_resnet50", 224, 8, "float32"),
            ("nf_resnet50", 224, 8, "mixed_bfloat16"),
            ("nf_resnet50", 64, 128, "mixed_bfloat16"),
        )
    ),
    "without_onednn": tuple(
        (size, batch, "float32", tuple(("nf_resnet50", form) for form in (OURS, GRADIENTS)))
        for size, batch in ((32, 128), (64, 32), (64, 1), (224, 8), (224, 1))
    ),
    "momentum": tuple(
        (
            size,
            batch,
            "float32",
            tuple((network, form) for form in (OURS, keras_networks.ONE_UPDATE)),
        )
        for network, size, batch in (
            ("nf_resnet26", 32, 1),
            ("nf_resnet50", 64, 1),
            ("nf_resnet50", 224, 1),
            ("nf_resnet50", 224, 4),
        )
    ),
    "conversion": tuple(
        (224, 8, "float32", tuple((f"keras.applications {network}", form) for form in CONVERSIONS))
        for network in ("ResNet50V2", "MobileNetV2", "EfficientNetB0", "DenseNet121")
    ),
}


def measure(size: int, batch: int, precision: str, contestants, turns: int) -> list[dict]:
    """Return the rows of networks that take turns."""
    shared = {"runtime": "keras", "size": size, "precision": precision, "training": True}
    contenders = build([{**shared, "network": n, "form": f} for n, f in contestants], {})
    take_turns(contenders, batch, turns, runs=1)
    rows = []
    for contender in contenders:
        seconds = contender.seconds[batch]
        rows.append(
            {
                **{name: contender.task[name] for name in ("network", "form", "precision")},
                "pixels": size,
                "pictures": batch,
                "milliseconds": round(1000 * statistics.median(seconds)),
                "least": round(1000 * min(seconds)),
                "busy": round(1000 * statistics.median(contender.busy[batch])),
                "megabytes": round(contender.memory[batch]["step_bytes"] / 2**20),
                **{"commit": provenance.commit(), "processor": provenance.processor()},
            }
        )
        contender.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=GROUPS, default="forms")
    parser.add_argument("--output", help="CSV file (benchmarks/training_TABLE.csv)")
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    output = args.output or Path(__file__).with_name(f"training_{args.table}.csv")
    rows = []
    for case in GROUPS[args.table]:
        rows += measure(*case, args.turns)
        write_table(output, rows, shown=False)
    write_table(output, rows)


if __name__ == "__main__":
    main()
