"""Count the parameters of every network into nf_zoo/data/parameters.tsv, for ``nf-zoo list``.

python docs/make_parameters_table.py
"""

from __future__ import annotations

from pathlib import Path

from nf_zoo import list_models, model_info
from nf_zoo.hub.catalog import read_catalog

TABLE = Path(__file__).parents[1] / "nf_zoo" / "data" / "parameters.tsv"


def table() -> str:
    """Return the architectures with their parameters, and the checkpoints whose count differs."""
    counts = {name: model_info(name).parameters for name in list_models()}
    for record in read_catalog():
        # A checkpoint of the hub that differs has its count on record.
        own = None if record.source == "hf" else model_info(record.name).parameters
        if own not in (None, counts[record.architecture]):
            counts[record.name] = own
    return "".join(f"{name}\t{count}\n" for name, count in counts.items())


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
