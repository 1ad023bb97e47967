"""Python programs in a process of their own, for what a running TensorFlow cannot change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def printed_by(program: str, **environment: str) -> str:
    """The last word that a program prints; the test fails with its errors if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()[-1]
