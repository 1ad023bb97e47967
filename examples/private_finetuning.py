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


def network_for(given: argparse.Namespace) -> tuple:
    """Return a pretrained network without batch statistics, and its function of pictures."""
    model = nf_zoo.create_model(given.model).with_classifier(CLASSES)
    network = model
    if any(isinstance(x, keras.layers.BatchNormalization) for x in model._flatten_layers()):
        network = nf_zoo.remove_batch_norm(model)
    own = {id(variable) for variable in network.get_layer("head").variables}
    for variable in network.trainable_variables if given.train != "all" else ():
        is_bias = given.train == "biases" and variable.name == "bias"
        variable.trainable = is_bias or id(variable) in own
    return network, model.preprocess


def pictures_for(given: argparse.Namespace, preprocess) -> tuple:
    """Return pictures and digits to train on, and others to test on."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    parts = order[: given.pictures], order[MOST:][: given.pictures]
    pictures = (digits.images[..., None] * 15).astype("uint8")
    return tuple((np.asarray(preprocess(pictures[x])), digits.target[x]) for x in parts)


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
    """Return the epsilon that the steps spend, reckoned by dp-accounting."""
    step = dp_accounting.PoissonSampledDpEvent(
        given.batch_size / given.pictures, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    accountant = dp_accounting.pld.PLDAccountant()
    return accountant.compose(step, given.steps).get_epsilon(given.delta)


def save(network: keras.Model, path: str, given: argparse.Namespace) -> None:
    """Save the weights in a fresh copy: the private network also holds the state of its noise."""
    fresh, _ = network_for(given)
    for layer, trained in zip(fresh.layers, network.layers, strict=True):
        layer.set_weights(trained.get_weights())
    fresh.save(path)


def arguments() -> argparse.Namespace:
    what, usage = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(
        description=what, epilog=usage, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="wide_resnet16_1.cifar10", help="a pretrained network")
    parser.add_argument(
        "--train", choices=["biases", "head", "all"], default="biases", help="biases: and the head"
    )
    parser.add_argument("--epsilon", type=float, default=8.0, help="the privacy budget")
    parser.add_argument("--delta", type=float, default=1e-4, help="below 1 / pictures")
    parser.add_argument("--clip", type=float, default=1.0, help="norm that gradients are cut to")
    parser.add_argument("--pictures", type=int, default=MOST, help=f"to train on, at most {MOST}")
    parser.add_argument("--batch-size", type=int, default=200, help="of a step, on average")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1.0, help="with privacy")
    parser.add_argument("--plain-learning-rate", type=float, default=0.05, help="of --compare")
    parser.add_argument("--seed", type=int, help="of the noise, for trials: it must stay secret")
    parser.add_argument("--compare", action="store_true", help="train without privacy, too")
    parser.add_argument("--output", help="file NAME.keras for the private network")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    network, preprocess = network_for(given)
    data, test = pictures_for(given, preprocess)
    network = compiled(private(network, given), given.learning_rate, given)
    size = {"batch_size": given.batch_size, "steps_per_epoch": given.steps}
    network.fit(*data, **size)
    _, accuracy = network.evaluate(*test, verbose=0)

    noise = network.get_noise_multiplier()
    print(f"noise multiplier {noise:.3f}, clip norm {given.clip:g}")
    print(f"epsilon {epsilon_of(noise, given):.2f} at delta {given.delta:g}")
    print(f"accuracy {accuracy:.3f}")
    if given.output:
        save(network, given.output, given)
    if given.compare:
        plain = compiled(network_for(given)[0], given.plain_learning_rate, given)
        epochs = math.ceil(given.steps / math.ceil(given.pictures / given.batch_size))
        plain.fit(*data, batch_size=given.batch_size, epochs=epochs)
        print(f"accuracy {plain.evaluate(*test, verbose=0)[1]:.3f} without privacy")


if __name__ == "__main__":
    main()
