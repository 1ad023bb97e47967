"""Fine-tune a network on digits with differential privacy; needs nf-zoo[privacy].

python private_finetuning.py [--epsilon 8] [--model wide_resnet16_1.cifar10] [--output mine.keras]
"""

import argparse
import math
import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from sklearn.datasets import load_digits

import nf_zoo
from nf_zoo.extras import require

keras_api = require("jax_privacy.keras_api", "Private trainings")
dp_accounting = require("dp_accounting", "Private trainings")

CLASSES = 10
MOST = 1400
"""Pictures to train on; the other 397 are to test on."""


def parts_for(given: argparse.Namespace) -> tuple[keras.Model, keras.Model]:
    """Return a pretrained network of features, without batch statistics, and a classifier."""
    body = nf_zoo.create_model(given.model, num_classes=0)
    if any(isinstance(x, keras.layers.BatchNormalization) for x in body._flatten_layers()):
        body = nf_zoo.remove_batch_norm(body)
    # Clipping bounds the whole gradient: with larger features the classifier would take all of it.
    classifier = keras.Sequential(
        [
            keras.Input(body.outputs[0].shape[1:]),
            keras.layers.LayerNormalization(center=False, scale=False, name="norm"),
            keras.layers.Dense(CLASSES, name="head"),
        ],
        name="classifier",
    )
    return body, classifier


def network_for(given: argparse.Namespace, parts=None) -> keras.Model:
    """Return what is trained: a classifier of features, or the whole network."""
    body, classifier = parts or parts_for(given)
    if given.train == "head":
        return classifier
    if given.train == "biases":
        for variable in body.trainable_variables:
            variable.trainable = variable.name == "bias"
    return keras.Model(body.inputs, classifier(body.outputs[0]))


def data_for(given: argparse.Namespace) -> list:
    """Return what the network takes, with the digits, to train on and to test on."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pictures = (digits.images[..., None] * 15).astype("uint8")
    preprocess = nf_zoo.create_model(given.model).preprocess
    data = []
    for part in (order[: given.pictures], order[MOST:][: given.pictures]):
        inputs = np.asarray(preprocess(pictures[part]))
        if given.train == "head":  # the rest stays as it is: its features are computed once
            inputs = parts_for(given)[0].predict(inputs, verbose=0)
        data.append((inputs, digits.target[part]))
    return data


def compiled(network: keras.Model, learning_rate: float, given: argparse.Namespace):
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, given.steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(schedule, momentum=0.9), loss, metrics=["accuracy"])
    return network


def private(network: keras.Model, given: argparse.Namespace) -> keras.Model:
    """Return the network, whose ``fit`` clips the gradient of every picture and adds noise."""
    # A step draws every picture with the same probability, so their number varies. Micro-batches
    # are filled up with nothing: two of this size hold nearly every draw, in one compilation.
    deviation = math.sqrt(given.batch_size * (1 - given.batch_size / given.pictures))
    settings = keras_api.DPKerasConfig(
        epsilon=given.epsilon,
        delta=given.delta,
        clipping_norm=given.clip,
        batch_size=given.batch_size,
        gradient_accumulation_steps=1,
        train_steps=given.steps,
        train_size=given.pictures,
        poisson_sampling_in_fit=True,
        microbatch_size=min(math.ceil(given.batch_size / 2 + 2 * deviation), given.batch_size),
        seed=given.seed,
    )
    return keras_api.make_private(network, settings)


def epsilon_of(noise_multiplier: float, given: argparse.Namespace) -> float:
    """Return the epsilon that the steps spend, computed by dp-accounting."""
    step = dp_accounting.PoissonSampledDpEvent(
        given.batch_size / given.pictures, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    accountant = dp_accounting.pld.PLDAccountant()
    return accountant.compose(step, given.steps).get_epsilon(given.delta)


def save(network: keras.Model, path: str, given: argparse.Namespace) -> None:
    """Save the weights in a fresh copy: the private network also holds the state of its noise."""
    body, classifier = parts = parts_for(given)
    for new, trained in zip(network_for(given, parts).layers, network.layers, strict=True):
        new.set_weights(trained.get_weights())
    keras.Model(body.inputs, classifier(body.outputs[0])).save(path)


def arguments() -> argparse.Namespace:
    what, usage = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(
        description=what, epilog=usage, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="wide_resnet16_1.cifar10", help="a pretrained network")
    parser.add_argument(
        "--train", choices=["head", "biases", "all"], default="head", help="biases: and the head"
    )
    parser.add_argument("--epsilon", type=float, default=8.0, help="the privacy budget")
    parser.add_argument("--delta", type=float, default=1e-4, help="below 1 / pictures")
    parser.add_argument("--clip", type=float, default=1.0, help="norm that gradients are cut to")
    parser.add_argument("--pictures", type=int, default=MOST, help=f"to train on, at most {MOST}")
    parser.add_argument("--batch-size", type=int, default=200, help="of a step, on average")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--learning-rate", type=float, default=2.0, help="with privacy")
    parser.add_argument("--plain-learning-rate", type=float, default=0.5, help="of --compare")
    parser.add_argument("--seed", type=int, help="of the noise, for trials: it must stay secret")
    parser.add_argument("--compare", action="store_true", help="train without privacy, too")
    parser.add_argument("--output", help="file NAME.keras for the private network")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    data, test = data_for(given)
    network = compiled(private(network_for(given), given), given.learning_rate, given)
    size = {"batch_size": given.batch_size, "steps_per_epoch": given.steps}
    network.fit(*data, **size, verbose=2)
    _, accuracy = network.evaluate(*test, verbose=0)

    noise = network.get_noise_multiplier()
    print(f"noise multiplier {noise:.3f}, clip norm {given.clip:g}")
    print(f"epsilon {epsilon_of(noise, given):.2f} at delta {given.delta:g}")
    print(f"accuracy {accuracy:.3f}")
    if given.output:
        save(network, given.output, given)
    if given.compare:
        plain = compiled(network_for(given), given.plain_learning_rate, given)
        epochs = math.ceil(given.steps / math.ceil(given.pictures / given.batch_size))
        plain.fit(*data, batch_size=given.batch_size, epochs=epochs, verbose=0)
        print(f"accuracy {plain.evaluate(*test, verbose=0)[1]:.3f} without privacy")


if __name__ == "__main__":
    main()
