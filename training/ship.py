"""Add a finished run to the checkpoints that come with nf_zoo.

    python -m training.ship --run=runs/nf --name=wide_resnet16_1.cifar10 --pictures=cifar10/test \\
        --dataset=cifar10 --dataset_name='CIFAR-10 (JPEG)'

``weights/NAME/`` receives the network in float16, its card, the log of the run (history.csv) and
metrics.json; weights/catalog.toml receives a record. The accuracy is measured here, on the class
folders of ``--pictures``, with the file that ships. If the run began with the weights of an earlier
run, its log and its recipe go with it.
"""

import json
import shutil
import sys
from pathlib import Path

from absl import app, flags

import nf_zoo
from nf_zoo import atomic
from nf_zoo.hub.card import CardDetails
from nf_zoo.hub.catalog import LABELS_IN_CONFIG, PretrainedWeights, weights_directory
from nf_zoo.hub.checkpoint import WEIGHTS_FILE, file_sha256
from nf_zoo.hub.curation import has_no_default, write_record
from nf_zoo.hub.errors import WeightsError
from training import recipe as recipes
from training.recipe import RecipeError

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Working folder of the finished run.")
flags.DEFINE_string("name", None, "ARCHITECTURE.TAG of the checkpoint.")
flags.DEFINE_string("pictures", None, "Class folders of the held-out pictures.")
flags.DEFINE_string("dataset", None, "Name of the training set on the hub.")
flags.DEFINE_string("dataset_name", None, "Name of the pictures, in words.")
flags.DEFINE_string("command", None, "The command that trained the network, for the card.")
flags.DEFINE_string("license", "apache-2.0", "SPDX identifier in lower case.")
flags.DEFINE_boolean("default", None, "Make it the checkpoint that pretrained=True loads.")
LARGEST = 60_000_000
"""Most bytes of a file in the repository."""


def ship(
    run: Path,
    name: str,
    pictures: str | Path,
    details: CardDetails,
    weights: Path | None = None,
    default: bool | None = None,
) -> PretrainedWeights:
    """Write ``weights/NAME/`` and its record; the flags of this module describe the arguments.

    ``weights`` is the folder of catalog.toml, by default the checkout's. Of ``details``,
    ``license`` and ``dataset_name`` are needed. If the record cannot be written, the folder is
    removed.
    """
    weights = weights or weights_directory()
    architecture, _, tag = name.partition(".")
    runs = _with_earlier(run)
    results = _results(run)
    model = nf_zoo.load_pretrained(run / "model")
    if model.architecture != architecture or not tag:
        raise RecipeError(
            f"name must be {model.architecture}.TAG, the run's architecture. Received: {name!r}"
        )
    folder = weights / name
    if folder.exists():
        raise FileExistsError(f"The checkpoint exists already. Received: {folder}")
    with atomic.replacing(folder) as made:
        metrics = _measured(model, pictures, made.with_name("float16"))
        split = "validation" if results["recipe"]["data.test"].startswith("val") else "test"
        metrics |= {"split": split, **_origin(results)}
        if runs[:-1]:
            metrics["earlier_runs"] = [_origin(_results(one)) for one in runs[:-1]]
        nf_zoo.save_pretrained(model, made, dtype="float16", card=details, metrics=metrics)
        if (made / WEIGHTS_FILE).stat().st_size > LARGEST:
            raise RecipeError(
                f"The file would be larger than {LARGEST // 10**6} MB. Received: {run}"
            )
        write_history([one / "log.jsonl" for one in runs], made / "history.csv")
    record = PretrainedWeights(
        architecture=architecture,
        tag=tag,
        license=details.license,
        preprocessing=model.preprocessing,
        source="shipped",
        filename=f"{name}/{WEIGHTS_FILE}",
        sha256=file_sha256(folder / WEIGHTS_FILE),
        format="nf_zoo",
        num_classes=model.num_classes,
        train_input_size=(results["recipe"]["data.input_size"],) * 2,
        top1=_percent(metrics["accuracy"]),
        top5=_percent(metrics.get("top5_accuracy")),
        accuracy_source=f"{details.dataset_name}, {metrics['pictures']:,} {split} pictures; "
        f"weights/{name}/metrics.json",
        labels=f"{name}/{LABELS_IN_CONFIG}",
        dataset=details.dataset_name,
        default=has_no_default(weights / "catalog.toml", architecture)
        if default is None
        else default,
    )
    try:
        write_record(weights / "catalog.toml", record)
    except WeightsError:
        shutil.rmtree(folder)
        raise
    return record


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


def _results(run: Path) -> dict:
    try:
        return json.loads((run / "results.json").read_bytes())
    except OSError as error:
        raise RecipeError(
            f"The run has no results.json: is it finished? Received: {run}"
        ) from error


def _with_earlier(run: Path) -> list[Path]:
    """Return the runs that a network comes from, the first one first."""
    runs = [run]
    while folder := _folder_of(_results(runs[0])["recipe"].get("model.weights", "")):
        if folder.name != "model":
            break  # a checkpoint, not the model/ of a run
        runs.insert(0, folder.parent)
    return runs


def _folder_of(weights: str) -> Path | None:
    """Return the path of the weights that a run began with; None for a tag or a repository."""
    return Path(weights).expanduser() if "/" in weights and "://" not in weights else None


def _measured(model, pictures, folder: Path) -> dict:
    """Return the metrics of the network as read back from float16."""
    nf_zoo.save_pretrained(model, folder, dtype="float16")
    model = nf_zoo.load_pretrained(folder)
    metrics = nf_zoo.evaluate(model, pictures, batch_size=250, strict=True)
    metrics.pop("skipped")
    return metrics


def _origin(results: dict) -> dict:
    """Return a run's commit, machine, seed and recipe, without paths of this machine."""
    defaults = recipes.identity(recipes.default())
    recipe = {k: v for k, v in results["recipe"].items() if v != defaults.get(k)}
    recipe["data.source"] = Path(recipe["data.source"]).name
    if folder := _folder_of(recipe.get("model.weights", "")):
        recipe["model.weights"] = "/".join(folder.parts[-2:])
    origin = {key: results.get(key, "unknown") for key in ("commit", "device")}
    return {**origin, "seed": results["recipe"]["seed"], "recipe": recipe}


def write_history(logs: list[Path], path: Path) -> None:
    """Write the log as CSV: a row for each evaluation, with the training loss before it.

    ``logs`` are those of a run and the runs before it; steps and minutes count on from log to log.
    Minutes are counted from the first line of a log, interruptions included.
    """
    columns = ("step", "minutes", "loss", "learning_rate", "test_loss", "test_top1")
    written: list[dict] = []
    for log in logs:
        before, elapsed = (written[-1]["step"], written[-1]["minutes"]) if written else (0, 0.0)
        rates: dict[str, str] = {}
        rows: dict[int, dict] = {}  # a run that was interrupted may have evaluated a step twice
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        for row in lines:
            if row["kind"] == "training":
                rates = {key: f"{row[key]:.4g}" for key in ("loss", "learning_rate")}
                continue
            rows[row["step"]] = {
                "step": before + row["step"],
                "minutes": round(elapsed + (row["time"] - lines[0]["time"]) / 60, 1),
                **rates,
                "test_loss": round(row["loss"], 4),
                "test_top1": round(row["top1"], 2),
            }
        written += rows.values()
    atomic.write_rows(path, columns, written)


def main(argv) -> int:
    del argv
    details = CardDetails(
        checkpoint=FLAGS.name,
        license=FLAGS.license,
        datasets=(FLAGS.dataset,) if FLAGS.dataset else (),
        dataset_name=FLAGS.dataset_name,
        training="By a recipe of training/; metrics.json has it in full, history.csv the log.",
        command=FLAGS.command,
    )
    try:
        run, name, pictures = Path(FLAGS.run), FLAGS.name, FLAGS.pictures
        print(ship(run, name, pictures, details, default=FLAGS.default))
    except (RecipeError, WeightsError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["run", "name", "pictures", "dataset_name"])
    app.run(main)
