"""Sessions: the model, engine and pictures of a recipe."""

import contextlib
import json
import os
import time
from pathlib import Path

import keras
import numpy as np

import nf_zoo
from nf_zoo import atomic
from training import recipe as recipes
from training.checkpoints import check_identity
from training.data import open_data
from training.loop import Clock, Diverged, Plan, Trainer
from training.optimization import make_optimizer, make_schedule
from training.recipe import RecipeError


def run(recipe, workdir: str | os.PathLike | None, **options) -> dict[str, float] | None:
    """Train, evaluate or describe a recipe, as the command line does.

    The recipe is a :func:`training.recipe.default` with changes. ``workdir`` may hold an earlier
    part of the same run. The options are the flags of :mod:`training.main`.
    """
    recipes.check(recipe)
    session = Session(recipe, workdir, **options)
    if options.get("dry_run"):
        print(session.describe())
        return None
    if options.get("eval_only"):
        values = session.evaluate()
        print(json.dumps(values))
        return values
    return session.train()


class Session:
    """Everything that a run needs, made from a checked recipe and the options of :func:`run`.

    Of a run that ends by the clock the recipe's epochs give the shape of the schedule, not its
    length.
    """

    def __init__(
        self,
        recipe,
        workdir,
        *,
        strategy: str = "auto",
        replicas: int = 0,
        peer_timeout: float = 300.0,
        tpu: str = "",
        precision: str = "float32",
        jit: bool = False,
        minutes: float = 0.0,
        eval_only: bool = False,
        dry_run: bool = False,
    ):
        if not workdir and not dry_run:
            raise RecipeError("--workdir is needed: a folder for checkpoints, logs and the result")
        started = time.monotonic()
        self.recipe, self.precision, self.jit = recipe, precision, jit
        self.folder = Path(workdir) if workdir else None
        self._jax = keras.backend.backend() == "jax"
        if keras.backend.backend() not in ("jax", "tensorflow"):
            raise RecipeError(
                "Training runs on TensorFlow or JAX: set KERAS_BACKEND. "
                f"Received: {keras.backend.backend()}"
            )
        self.strategy = None
        if self._jax:
            if strategy not in ("auto", "one_device") or replicas > 1:
                raise RecipeError(
                    "On JAX a run has one accelerator; several need KERAS_BACKEND=tensorflow. "
                    f"Received: --strategy={strategy} --replicas={replicas}"
                )
            if not recipes.in_memory(recipe):
                raise RecipeError(
                    "On JAX the pictures are kept in memory: data.source=arrays:... or "
                    f"data.in_memory=True. Received: {recipe.data.source!r}"
                )
        else:
            from training.strategy import make_strategy

            self.strategy = make_strategy(strategy, replicas, peer_timeout, tpu)
        self.identity = recipes.identity(recipe) | {"precision": precision}
        if self.folder is not None:
            self._claim(write=False)
        self.data = open_data(recipe)
        self.plan = Plan.of(recipe, self.data.train_size)
        self.clock = Clock(started + 60.0 * minutes, self.plan.steps) if minutes else None
        with self.strategy.scope() if self.strategy else contextlib.nullcontext():
            self._make_model()
        self._make_engine()
        if self.folder is not None and not (eval_only or dry_run) and self.chief:
            self._claim(write=True)

    def describe(self) -> str:
        """Return the resolved recipe, and the sizes that follow from it."""
        gigabytes = {name: f"{size / 2**30:.2f} GB" for name, size in self._memory().items()}
        rows = {
            **recipes.flatten(self.recipe),
            "": "",
            "pictures": f"{self.data.train_size} to train, {self.data.test_size} to test",
            "classes": len(self.data.labels),
            "parameters": self.model.count_params(),
            "multiply-adds of a picture": self.model.multiply_adds(
                self.recipe.data.input_size, self.recipe.data.input_size
            ),
            "steps": f"{self.plan.steps} ({self.plan.steps_per_epoch:.1f} an epoch)",
            "replicas": self.engine.replicas,
            "pictures of a replica in a step": self.engine.replica_batch,
            "precision": self.precision,
            **gigabytes,
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows.items())

    def train(self) -> dict[str, float] | None:
        """Train to the end or to an interruption; see :meth:`training.loop.Trainer.run`."""
        with atomic.alone_in(self.folder) if self.chief else contextlib.nullcontext():
            trainer = Trainer(self)
            trainer.resume()
            values = trainer.run()
            if values is not None and self.chief:
                trainer.export(values)
        return values

    def evaluate(self) -> dict[str, float]:
        """Evaluate the newest checkpoint."""
        trainer = Trainer(self)
        if not trainer.resume(to_train=False):
            raise RecipeError(f"There is no checkpoint to evaluate. Received: {self.folder}")
        return trainer.evaluate()

    @property
    def chief(self) -> bool:
        """True on the host that writes."""
        resolver = getattr(self.strategy, "cluster_resolver", None)
        if resolver is None or not resolver.task_type:
            return True
        if resolver.task_type == "chief":
            return True
        cluster = resolver.cluster_spec().as_dict()
        first = resolver.task_type == "worker" and resolver.task_id == 0
        return first and "chief" not in cluster

    def _claim(self, write: bool) -> None:
        """Check that the folder belongs to this recipe, or claim a new one."""
        path = self.folder / "recipe.json"
        if path.exists():
            check_identity(json.loads(path.read_bytes()), self.identity, self.folder)
        elif write:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path, json.dumps(self.identity, indent=2) + "\n")

    def _make_model(self) -> None:
        recipe = self.recipe
        keras.utils.set_random_seed(recipe.seed)
        given = recipe.regularization
        # Weights to begin with bring their own options; the engines expect these.
        fields = {
            "input_shape": (None, None, 3),
            "classifier_activation": None,
            "include_preprocessing": False,
            "stochastic_depth_rate": 0.0,
            **json.loads(recipe.model.fields),
        }
        if given.stochastic_depth:
            fields["stochastic_depth_rate"] = given.stochastic_depth
        if given.dropout >= 0:
            fields["drop_rate"] = given.dropout
        in_memory = recipes.in_memory(recipe)
        sides = (recipe.data.test_size,) * 2
        resized = in_memory and self.data.test[0].shape[1:3] != sides
        preprocessing = nf_zoo.Preprocessing(
            interpolation="bilinear" if resized else "bicubic",  # as pictures in memory are resized
            input_size=recipe.data.test_size,
            crop_fraction=1.0 if in_memory else recipe.data.crop_fraction,  # whole, if in memory
            mean=tuple(recipe.data.mean),
            std=tuple(recipe.data.std),
        )
        try:
            self.model = nf_zoo.create_model(
                recipe.model.architecture,
                recipe.model.weights or False,
                variant=recipe.model.variant or None,
                labels=self.data.labels,
                preprocessing=preprocessing,
                dtype=self.precision,
                **fields,
            )
        except (TypeError, ValueError, nf_zoo.WeightsError) as error:
            raise RecipeError(f"model: {error}") from error
        self.schedule = make_schedule(recipe, self.plan.steps, self.plan.steps_per_epoch)
        self.optimizer = make_optimizer(recipe, self.model, self.schedule)

    def _make_engine(self) -> None:
        if self._jax:
            from training.feeds import JaxFeed
            from training.jax_engine import JaxEngine

            pictures = self.data.train[0]
            self.engine = JaxEngine(self.recipe, self.model, self.optimizer, pictures)
            self.feed = JaxFeed(self.recipe, self.data, self.engine.resident)
            return
        from training.feeds import TensorFlowFeed
        from training.tensorflow_engine import TensorFlowEngine

        self.engine = TensorFlowEngine(
            self.recipe, self.strategy, self.model, self.optimizer, self.jit
        )
        self.feed = TensorFlowFeed(self.recipe, self.data, self.strategy)

    def _memory(self) -> dict[str, int]:
        """Return estimates for one replica, in bytes."""
        size = self.recipe.data.input_size
        micro = self.engine.replica_batch // self.recipe.accumulate
        item = np.dtype("float32").itemsize
        half = 2 if self.model.dtype_policy.compute_dtype in ("float16", "bfloat16") else 4
        parameters = self.model.count_params() * item
        optimizer = sum(int(np.prod(v.shape)) * item for v in self.optimizer.variables)
        activations = activation_count(self.model, size) * micro * half
        return {
            "memory of weights and gradients": 2 * parameters,
            "memory of the optimizer": optimizer,
            "memory of activations (estimate)": activations,
        }


def expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a run that are no fault of the program."""
    expected = (RecipeError, Diverged, OSError)
    if keras.backend.backend() != "tensorflow":
        return expected
    from tensorflow import errors

    return (*expected, errors.UnavailableError, errors.AbortedError, errors.ResourceExhaustedError)


def activation_count(model, size: int) -> int:
    """Return about how many values the backward pass of one picture needs: two maps a convolution.

    One map is the convolution's input, the other that of the activation before it. A block that is
    recomputed keeps only its input.
    """
    total, shape = 0, (1, size, size, 3)
    recomputed = getattr(model.config, "rematerialize", False)
    for layer in model.layers[1:]:
        convolutions = getattr(layer, "convs", [layer] if hasattr(layer, "kernel") else [])
        inner = shape
        if recomputed and len(convolutions) > 1:
            total, convolutions = total + int(np.prod(inner[1:])), []
        for convolution in convolutions:
            total += 2 * int(np.prod(inner[1:]))
            inner = tuple(convolution.compute_output_shape(inner))
        shape = tuple(layer.compute_output_shape(shape))
    return total
