"""Seconds until a network is ready: import, construction, and weights from a local file.

    python -m benchmarks.start_up

Every figure is the median over fresh processes. Writes benchmarks/start_up.csv.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.tables import write_table

SAVE = """
import sys, nf_zoo
nf_zoo.save_pretrained(nf_zoo.NFResNet50(), sys.argv[1])
"""
START = """
import json, sys, time
clock = time.perf_counter
began = clock(); import nf_zoo; imported = clock() - began
began = clock(); import keras; keras.Model; keras_imported = clock() - began
began = clock(); nf_zoo.NFResNet50(); built = clock() - began
began = clock(); nf_zoo.NFResNet50(); again = clock() - began
began = clock(); nf_zoo.NFResNet50(pretrained=sys.argv[1]); loaded = clock() - began
print(json.dumps([imported, keras_imported, built, again, loaded]))
"""
NAMES = (
    "import nf_zoo",
    "import keras",
    "NFResNet50(), the first network of a process",
    "NFResNet50() once more",
    "NFResNet50(pretrained=PATH), the weights in a file",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default=Path(__file__).with_name("start_up.csv"))
    args = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights")
        subprocess.run([sys.executable, "-c", SAVE, weights], check=True)
        for _ in range(args.rounds):
            command = [sys.executable, "-c", START, weights]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rounds.append(json.loads(printed.splitlines()[-1]))
    columns = zip(NAMES, zip(*rounds, strict=True), strict=True)
    rows = [{"what": name, "seconds": round(statistics.median(x), 3)} for name, x in columns]
    write_table(args.output, rows)


if __name__ == "__main__":
    main()
