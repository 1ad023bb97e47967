"""Recipes, the command line around them, and what it says when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import programs
import pytest
from broken_step import check_a_broken_network
from PIL import Image

import nf_zoo
from nf_zoo import atomic
from training import recipe as recipes
from training.loop import Diverged
from training.recipe import RecipeError
from training.session import run

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "training" / "configs").glob("[a-z]*.py"))

VARIANTS = {
    "nf_regnet_imagenet": ("B0", "B1", "B2", "B3", "B4", "B5"),
    "nf_resnet50_imagenet": ("nf_resnet288", "resnetv2_101", "skipinit_resnet50"),
    "nf_resnet50_tiny_imagenet": ("nf_resnet26", "resnetv2_50", "resnetv2_26,two_cores"),
    "nfnet_imagenet": ("F0", "F1", "F2", "F3", "F4", "F5"),
    "wide_resnet_cifar10": (
        "bn",
        "skipinit_1/sqrt(d)",
        "fixup",
        "1000-4",
        "short",
        "open",
        "bn,growing",
    ),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """{train,test,val,validation}/ of two classes of JPEGs."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split in ("train", "test", "val", "validation"):
        for index in range(24):
            place = root / split / f"class{index % 2}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 100, (40, 48, 3)) + 100 * (index % 2)
            Image.fromarray(pixels.astype("uint8")).save(place / f"{index}.jpg")
    return root


@pytest.mark.fast
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_variant_is_a_recipe(path):
    from nf_zoo.models.registry import architecture

    for variant in ("", "smoke", *VARIANTS[path.stem]):
        recipe = recipes.load(f"{path}:{variant}")
        recipes.check(recipe)
        row = architecture(recipe.model.architecture)
        row.configure(recipe.model.variant or None, **json.loads(recipe.model.fields))
        assert (
            recipe.name and "Expected accuracy" in path.read_text()
        ) or "gives" in path.read_text()
    with pytest.raises(RecipeError, match="variants"):
        recipes.load(f"{path}:nonsense")


@pytest.mark.fast
def test_weights_to_begin_with_that_are_missing_are_said(recipe, tmp_path):
    recipe.model.weights = str(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="nowhere"):
        run(recipe, tmp_path / "run", strategy="one_device")


@pytest.mark.fast
def test_the_open_recipe_differs_between_schemes_in_the_gains_alone():
    path = str(REPOSITORY / "training" / "configs" / "wide_resnet_cifar10.py")
    recipe = recipes.load(f"{path}:nf,16-2,two_cores,open")
    assert json.loads(recipe.model.fields) == {"scheme": "nf", "zero_init_gain": False}
    assert (recipe.optimizer.learning_rate, recipe.optimizer.agc) == (0.2, 0.1)
    twin = recipes.load(f"{path}:bn,16-2,two_cores,open")
    assert json.loads(twin.model.fields) == {"scheme": "bn"}
    ours, theirs = recipes.identity(recipe), recipes.identity(twin)
    assert {key for key in ours if ours[key] != theirs[key]} == {"name", "model.fields"}


@pytest.mark.fast
def test_the_twins_of_26_layers_differ_in_the_network_alone():
    path = str(REPOSITORY / "training" / "configs" / "nf_resnet50_tiny_imagenet.py")
    recipe = recipes.load(f"{path}:nf_resnet26,two_cores")
    twin = recipes.load(f"{path}:resnetv2_26,two_cores")
    ours, theirs = recipes.identity(recipe), recipes.identity(twin)
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"name", "model.architecture", "model.fields"}
    assert _kernel_shapes(recipe) == _kernel_shapes(twin)


def _kernel_shapes(recipe) -> list[tuple[int, ...]]:
    """Of all convolutions of the recipe's network, sorted."""
    model = nf_zoo.create_model(recipe.model.architecture, **json.loads(recipe.model.fields))
    return sorted(tuple(w.shape) for w in model.trainable_weights if len(w.shape) == 4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_twenty_real_steps(path, pictures, tmp_path):
    """Of the recipe as it is, but for networks of one block a stage, and narrow NFNets."""
    recipe = recipes.load(f"{path}:smoke")
    fields = {"depths": [1, 1, 1] if "wide" in path.stem else [1, 1, 1, 1]}
    if path.stem.startswith("nfnet"):
        fields["widths"] = [256, 256, 256, 256]
    recipe.model.fields = json.dumps({**json.loads(recipe.model.fields), **fields})
    recipe.data.source = f"folder:{pictures}"
    values = run(recipe, tmp_path)
    assert np.isfinite(values["loss"]) and 0 <= values["top1"] <= 100
    assert ("ema_top1" in values) == bool(recipe.ema)
    model = nf_zoo.load_pretrained(tmp_path / "model")
    assert model.labels == ("class0", "class1")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["step"] == 20 and results["recipe"]["seed"] == 0


def test_learns_evaluates_and_stays_where_it_was(recipe, tmp_path, caplog):
    recipe.steps, recipe.ema = 60, 0.9
    recipe.regularization.weight_decay = 0.0
    recipe.evaluation.every_epochs = 5.0
    values = run(recipe, tmp_path)
    assert values["top1"] > 60 and values["ema_top1"] > 60
    rows = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "training"]
    assert losses[-1] < 0.7 * losses[0]
    assert list((tmp_path / "tensorboard").iterdir())
    again = run(recipe, tmp_path)
    evaluated = run(recipe, tmp_path, eval_only=True)
    for key, value in values.items():
        assert again[key] == pytest.approx(value) and evaluated[key] == pytest.approx(value)
    rows = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "evaluation"]
    assert steps == sorted(set(steps)) and steps[-1] == 60


def test_the_first_epochs_are_on_smaller_pictures(recipe, tmp_path, monkeypatch):
    from training.tensorflow_engine import TensorFlowEngine

    asked, seen = [], set()
    step, forward = TensorFlowEngine.train_step, TensorFlowEngine._loss_and_gradient

    def train_step(engine, batch, size=None):
        asked.append(size)
        return step(engine, batch, size)

    def loss_and_gradient(engine, images, targets):
        seen.add(tuple(images.shape))
        return forward(engine, images, targets)

    monkeypatch.setattr(TensorFlowEngine, "train_step", train_step)
    monkeypatch.setattr(TensorFlowEngine, "_loss_and_gradient", loss_and_gradient)
    recipe.data.early_size, recipe.data.early_epochs = 8, 0.5  # of six steps
    run(recipe, tmp_path, strategy="one_device")
    assert asked == [8, 8, 8, None, None]
    assert seen == {(16, 8, 8, 3), (16, 16, 16, 3)}


def test_half_precision(recipe, tmp_path):
    for precision in ("mixed_bfloat16", "mixed_float16"):
        values = run(recipe, tmp_path / precision, precision=precision)
        assert np.isfinite(values["loss"])
    with pytest.raises(RecipeError, match="precision"):
        run(recipe, tmp_path / "mixed_float16")


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_other_optimizers(recipe, tmp_path, name):
    recipe.optimizer.name, recipe.optimizer.learning_rate = name, 1e-3
    recipe.optimizer.layer_decay = 0.8
    assert np.isfinite(run(recipe, tmp_path)["loss"])


def test_divergence_ends_the_run_and_names_the_layer(recipe, tmp_path):
    recipe.steps, recipe.run.checkpoint_steps = 60, 2
    recipe.optimizer.agc, recipe.optimizer.learning_rate = 0.0, 1e6
    recipe.schedule.warmup_epochs = 5.0
    with pytest.raises(Diverged, match=r"not finite at step \d+: .*stage\d_block1.*checkpoint"):
        run(recipe, tmp_path)
    found = json.loads((tmp_path / "diverged.json").read_text())
    assert found["step"] >= 0 and "stage" in found["where"]
    state = np.concatenate(
        [np.ravel(value) for value in _newest(tmp_path).values() if value.dtype.kind == "f"]
    )
    assert np.isfinite(state).all()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_that_is_not_finite_is_left_out(recipe, tmp_path, name):
    recipe.optimizer.name = name
    check_a_broken_network(recipe, tmp_path)


def _newest(folder) -> dict:
    from training.checkpoints import Checkpoints

    identity = json.loads((folder / "recipe.json").read_text())
    return Checkpoints(folder / "checkpoints", identity).load_newest()[1]


def test_a_folder_of_another_recipe_is_refused(recipe, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({**recipes.identity(recipe), "seed": 7}))
    with pytest.raises(RecipeError, match="seed: 7 then, 0 now"):
        run(recipe, tmp_path)


def test_pictures_in_memory_are_kept_whole(recipe, arrays, tmp_path):
    """The exported model prepares pictures as they were evaluated."""
    recipe.data.crop_fraction, recipe.steps = 0.875, 1
    found = run(recipe, tmp_path, strategy="one_device")
    model = nf_zoo.load_pretrained(tmp_path / "model")
    assert model.preprocessing.crop_fraction == 1.0
    with np.load(arrays) as file:
        pictures, classes = file["test_images"], file["test_classes"]
    exported = nf_zoo.evaluate(model, (pictures, classes))
    assert exported["accuracy"] == pytest.approx(found["top1"] / 100)
    recipe.data.crop_fraction = 0.5
    with pytest.raises(RecipeError, match="Pictures in memory are kept whole"):
        recipes.check(recipe)


def test_two_runs_do_not_share_a_folder(recipe, tmp_path):
    with atomic.alone_in(tmp_path), pytest.raises(BlockingIOError, match="Another run is writing"):
        run(recipe, tmp_path, strategy="one_device")
    assert not (tmp_path / "checkpoints").exists()


def test_a_dry_run_says_what_would_be_done(recipe, capsys):
    assert run(recipe, None, dry_run=True) is None
    said = capsys.readouterr().out
    for word in (
        "optimizer.agc",
        "96 to train, 30 to test",
        "parameters",
        "5 (6.0 an epoch)",
        "GB",
    ):
        assert word in said, word


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("batch_size", 15, "14 or 16|multiple"),
        ("ema", 1.0, r"ema must be in \[0, 1\)"),
        ("optimizer.name", "sgdd", "sgd, adamw, lamb"),
        ("augmentation.randaugment_layers", 17, r"augmentation\.randaugment_layers must be .* 16"),
        ("augmentation.mixup", -1.0, r"augmentation\.mixup must be 0 \(off\) or more"),
        ("model.fields", "{", "JSON"),
        ("model.fields", '{"depht": 3}', "depht"),
        ("model.architecture", "wide_resnet11_1", "wide_resnet10_1"),
        ("data.source", "arrays:nowhere", "training.prepare"),
        ("regularization.label_smoothing", -0.1, "label_smoothing"),
        ("data.early_epochs", 1.0, r"data.early_size in \[8, data.input_size = 16\]"),
        ("data.early_size", 8, "data.early_epochs must be above 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_explained(recipe, tmp_path, field, value, word):
    recipe.accumulate = 2 if field == "batch_size" else 1
    recipe.update_from_flattened_dict({field: value})
    with pytest.raises(RecipeError, match=word):
        run(recipe, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--config.optimzer.name=sgd"], "optimizer"),
        (["--config.batch_size=many"], "batch_size"),
        (["--config=nowhere.py"], "nowhere.py"),
        (["--strategy=parameter_server", "--workdir=x"], "Keras 3 has no training loop"),
        ([], "--workdir is needed"),
    ],
)
def test_the_command_line_fails_in_a_line(arguments, word, tmp_path):
    given = [one for one in arguments if one.startswith("--config=")]
    config = given or [f"--config={REPOSITORY}/tests/training/small_recipes.py"]
    rest = [one for one in arguments if one not in given]
    command = "import runpy; runpy.run_module('training.main', run_name='__main__', alter_sys=True)"
    done = programs.run(command, *config, *rest)
    assert done.returncode != 0 and word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_recipe_clips_the_steps(recipe, name, tmp_path):
    """Under SGD the clipped gradient bounds the step, under Adam its second moment."""
    from training.session import Session

    recipe.optimizer.name, recipe.optimizer.agc, recipe.optimizer.agc_eps = name, 1e-4, 1e-2
    recipe.schedule.warmup_epochs = recipe.regularization.weight_decay = 0.0
    session = Session(recipe, tmp_path, strategy="one_device")
    variables = session.model.trainable_variables
    before = [np.array(variable.value) for variable in variables]
    session.engine.train_step(next(iter(session.feed.train(0))))
    exempt = session.model.head.kernel
    for variable, old in zip(variables, before, strict=True):
        limit = 1e-4 * max(np.linalg.norm(old), 1e-2)
        if name == "sgd":
            step = 1.9 * recipe.optimizer.learning_rate * limit  # of Nesterov momentum
            moved = np.linalg.norm(np.asarray(variable.value) - old)
            assert variable is exempt or moved < 1.1 * step + 1e-6 * np.linalg.norm(old)
    if name == "adamw":
        moments = session.optimizer.inner_optimizer.inner_optimizer._velocities
        for variable, old, moment in zip(variables, before, moments, strict=True):
            root = np.sqrt(np.sum(moment) / (1 - recipe.optimizer.beta_2))
            assert variable is exempt or root < 1.1e-4 * max(np.linalg.norm(old), 1e-2)


def test_a_sweep_goes_on_where_it_was(recipe, tmp_path):
    import csv

    from training.sweep import read_grid, run_grid

    recipe.steps = 3
    grid = read_grid(["optimizer.learning_rate=0.1,1e36"], recipe)
    recipe.optimizer.agc = 0.0
    path = run_grid(recipe, grid, seeds=1, workdir=tmp_path)
    rows = list(csv.DictReader(path.open()))
    assert [row["outcome"] for row in rows] == ["finished", "diverged"]
    assert rows[0]["commit"] and json.loads(rows[0]["recipe"])["seed"] == 0
    before = path.stat().st_mtime_ns
    run_grid(recipe, grid, seeds=1, workdir=tmp_path)
    assert path.stat().st_mtime_ns == before
    recipe.epochs, recipe.model.architecture = 2.0, "resnetv2_26"
    with pytest.raises(RecipeError, match="holds runs of another recipe"):
        run_grid(recipe, grid, seeds=1, workdir=tmp_path)
    with pytest.raises(RecipeError, match="FIELD=VALUE"):
        read_grid(["nothing=1"], recipe)
    assert read_grid(["augmentation.flip=True,False"], recipe) == {
        "augmentation.flip": [True, False]
    }
    with pytest.raises(RecipeError, match="--seeds"):
        read_grid(["seed=5,6"], recipe)
    for row in ("batch_size=many", "augmentation.flip=no", "data.mean=0.5"):
        with pytest.raises(RecipeError, match=row.partition("=")[0]):
            read_grid([row], recipe)


@pytest.mark.fast
def test_learning_rates():
    from training.optimization import make_schedule

    recipe = recipes.default()
    recipe.optimizer.learning_rate, recipe.schedule.warmup_epochs = 0.4, 2.0

    def rates(*steps):
        schedule = make_schedule(recipe, steps=40, steps_per_epoch=2.0)
        return [float(schedule(step)) for step in steps]

    assert rates(0, 4, 22, 40) == pytest.approx([0.08, 0.4, 0.2, 0.0], abs=1e-6)
    recipe.schedule.end = 0.1
    assert rates(4, 40) == pytest.approx([0.4, 0.1])
    recipe.schedule.kind = "constant"
    assert rates(0, 4, 40) == pytest.approx([0.08, 0.4, 0.4])
    recipe.schedule.kind, recipe.schedule.every_epochs = "step", 5.0
    with pytest.raises(RecipeError, match="warmup_epochs=0"):
        recipes.check(recipe)
    recipe.schedule.warmup_epochs = 0.0
    expected = [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    assert rates(0, 19, 20, 29, 30, 39) == pytest.approx(expected)
    recipe.schedule.hold = 1.0
    assert rates(0, 39) == pytest.approx([0.4, 0.4])
    recipe.schedule.hold = 0.5
    recipe.batch_size, recipe.optimizer.per_batch = 64, 256
    assert rates(0) == pytest.approx([0.1])
