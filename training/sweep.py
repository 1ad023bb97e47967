"""Run a recipe for every combination of some fields and seeds, and keep a table.

    python -m training.sweep --config=training/configs/wide_resnet_cifar10.py:nf,16-1 \\
        --config.data.source=arrays:cifar10.npz --grid=optimizer.learning_rate=0.05,0.1,0.2 \\
        --grid=batch_size=64,256 --seeds=3 --workdir=runs/sweep

The example sweeps learning rate by batch size. To compare depths:
``--grid=model.architecture=wide_resnet16_4,wide_resnet100_4``. Each row of WORKDIR/results.csv
names the recipe, the seed, the commit and the device. Finished runs are not repeated.
"""

import csv
import itertools
import json
import os
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from nf_zoo import atomic
from training import provenance
from training import recipe as recipes
from training.recipe import RecipeError

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe; see training.main.")
GRID = flags.DEFINE_multi_string("grid", [], "FIELD=VALUE,VALUE,...; may be given several times.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds, 0, 1, ..., for every combination.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the runs and results.csv.")
RESULTS = "results.csv"
READERS = {int: int, float: float, str: str, bool: {"True": True, "False": False}.__getitem__}


def read_grid(rows: list[str], recipe) -> dict[str, list]:
    """Parse ``["batch_size=64,128"]`` to ``{"batch_size": [64, 128]}``, by the fields' types."""
    flat = recipes.flatten(recipe)
    grid: dict[str, list] = {}
    for row in rows:
        field, _, values = row.partition("=")
        if field not in flat or not values:
            raise RecipeError(
                f"--grid must be FIELD=VALUE,..., with a FIELD of {', '.join(flat)}. "
                f"Received: {row!r}"
            )
        if field == "seed":
            raise RecipeError(f"Seeds are counted by --seeds=N. Received: --grid={row}")
        kind = type(flat[field])
        try:
            grid[field] = [READERS[kind](value) for value in values.split(",")]
        except (ValueError, KeyError) as error:
            raise RecipeError(
                f"Values of {field} must be of type {kind.__name__}; numbers, words and True or "
                f"False can be swept. Received: {row!r}"
            ) from error
    return grid


def run_grid(recipe, grid: dict[str, list], seeds: int, workdir: str | os.PathLike) -> Path:
    """Run every combination, and return the path of the table.

    A run that diverges has no accuracy, and its row says ``diverged``. SIGTERM saves the run and
    ends the sweep; the same call continues it.
    """
    path = Path(workdir) / RESULTS
    rows = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    for *values, seed in itertools.product(*grid.values(), range(seeds)):
        cell = dict(zip(grid, values, strict=True))
        name = "_".join([*(f"{key.split('.')[-1]}-{value}" for key, value in cell.items())])
        folder = Path(workdir) / re.sub(r"[^\w.=-]", "_", f"{name}_seed-{seed}")
        one = recipe.copy_and_resolve_references()
        one.seed = seed
        one.update_from_flattened_dict(cell)
        done = [row["recipe"] for row in rows if row["run"] == folder.name]
        if done and json.loads(done[0]) != recipes.identity(one):
            raise RecipeError(
                "The table holds runs of another recipe: choose another --workdir. "
                f"Received: {path} with {folder.name}"
            )
        if done:
            continue
        found = measure(one, folder)
        if found is None:
            break
        rows.append({"run": folder.name, **cell, "seed": seed, **found})
        atomic.write_rows(path, dict.fromkeys(key for row in rows for key in row), rows)
    return path


def measure(recipe, workdir: str | os.PathLike) -> dict | None:
    """Return the row of one run: outcome, loss and accuracies, and their origin.

    A run that diverges has no accuracy. The result is None if SIGTERM interrupted the run.
    """
    from training.loop import Diverged
    from training.session import run

    try:
        found = run(recipe, workdir)
        if found is None:
            return None
        outcome = {"outcome": "finished", **found}
    except Diverged as error:
        logging.warning("%s: %s", Path(workdir).name, error)
        outcome = {"outcome": "diverged"}
    return {
        **outcome,
        "recipe": json.dumps(recipes.identity(recipe)),
        "commit": provenance.commit(),
        "device": provenance.device(),
    }


def main(argv) -> int:
    del argv
    logging.set_verbosity(logging.INFO)
    try:
        if not WORKDIR.value:
            raise RecipeError("--workdir is needed")
        Path(WORKDIR.value).mkdir(parents=True, exist_ok=True)
        grid = read_grid(GRID.value, CONFIG.value)
        print(run_grid(CONFIG.value, grid, SEEDS.value, WORKDIR.value))
    except (RecipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
