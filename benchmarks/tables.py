"""Tables of measurements, as a CSV file and as Markdown on the terminal."""

from __future__ import annotations

import csv
import os
from pathlib import Path


def read_table(path: str | os.PathLike) -> list[dict]:
    """Return the rows of a file, as text; none if there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: str | os.PathLike, rows: list[dict], shown: bool = True) -> None:
    """Write the rows, which have the same columns, and print them if ``shown``."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
    if not shown:
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
