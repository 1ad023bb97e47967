"""The first part of a model's life: training that is killed, and goes on in another process.

``python life.py begin FOLDER`` ends in the middle; ``python life.py go_on FOLDER`` goes on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import keras
import numpy as np
import tiny_networks

import nf_zoo
from nf_zoo.pictures.preprocessing import Preprocessing

FAMILIES = {
    "nf_resnet": {"stochastic_depth_rate": 0.5},
    "nf_regnet": {},
    "nfnet": {"stochastic_depth_rate": 0.5, "drop_rate": 0.5},
    "skipinit_resnet": {},
    "fixup_resnet": {},
    "resnet": {},
    "regnety": {},
    "wide_resnet": {},
}
"""Label of a network of every family -> options that make chance play a part."""

LABELS = ("ash", "beech", "cedar")
EPOCHS, KILLED_AFTER = 4, 2


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Twelve normalized pictures of 16 pixels, and their classes."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((12, 16, 16, 3)).astype("float32"), np.arange(12) % 3


def raw_pictures() -> np.ndarray:
    """Two pictures, uint8."""
    return np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype="uint8")


def in_float32(model):
    """The same network with the same weights, computing in float32."""
    exact = model.with_classifier(3, LABELS, dtype="float32")
    exact.set_weights(model.get_weights())
    return exact


def born(label: str):
    """A network with a frozen stem and first convolution, compiled with clipping."""
    keras.utils.set_random_seed(20261123)
    model = tiny_networks.build(
        label,
        num_classes=3,
        labels=LABELS,
        depths=(2,),
        widths=(16,),
        preprocessing=Preprocessing(16, 1.0),  # as large as the pictures
        dtype="mixed_bfloat16",
        **FAMILIES[label],
    )
    model.layers[1].trainable = False
    model.blocks[0].convs[0].trainable = False
    compile_with_clipping(model)
    return model


def compile_with_clipping(model) -> None:
    sgd = keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer = nf_zoo.AdaptiveGradientClipping(sgd, clipping=0.1, exclude=model.head)
    model.compile(optimizer, "sparse_categorical_crossentropy")


class _Killed(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == KILLED_AFTER:
            raise KeyboardInterrupt


def train(label: str, folder: Path, *callbacks) -> tuple:
    """The model and its history, from where the last process came to."""
    model = born(label)
    folder.mkdir(exist_ok=True)
    checkpoint = keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras")
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    callbacks = [backup, checkpoint, *callbacks]
    history = model.fit(
        *pictures(), batch_size=6, epochs=EPOCHS, shuffle=False, callbacks=callbacks, verbose=0
    )
    return model, history


def begin(folder: Path) -> None:
    for label in FAMILIES:
        try:
            train(label, folder / label, _Killed())
        except KeyboardInterrupt:
            continue
    os._exit(9)  # nothing is tidied up


def go_on(folder: Path) -> None:
    for label in FAMILIES:
        model, history = train(label, folder / label)
        assert history.epoch == list(range(KILLED_AFTER, EPOCHS)), history.epoch
        model.save(folder / label / "model.keras")
        whole, _ = train(label, folder / f"{label}_uninterrupted")
        whole.save(folder / label / "uninterrupted.keras")
        exact = in_float32(model)
        nf_zoo.export_saved_model(exact, folder / label / "exported")
        logits = exact.predict(exact.preprocess(raw_pictures()), verbose=0)
        np.save(folder / label / "logits.npy", logits)


if __name__ == "__main__":
    {"begin": begin, "go_on": go_on}[sys.argv[1]](Path(sys.argv[2]))
