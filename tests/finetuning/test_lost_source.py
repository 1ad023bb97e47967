"""A source of pictures that dies in mid-epoch ends the process, in one line."""

import os
import subprocess
import sys
import textwrap

PROGRAM = """
import sys

from nf_zoo import cli
from nf_zoo.finetuning import picture_sets

picture_sets.CACHE_BYTES, count = 1, iter(range(10**6))
read = picture_sets.FilePictures._pixels


def until_it_dies(self, name):
    # Nine pictures are trained on: two epochs and the half of a third.
    if next(count) >= 30:
        name = "gone/" + name
    return read(self, name)


picture_sets.FilePictures._pixels = until_it_dies
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_source_that_dies_ends_the_process(few, tmp_path):
    output = tmp_path / "out"
    options = ["--model", "nf_resnet14.cifar10", "--epochs", "4", "--batch-size", "4", "--output"]
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), "finetune", str(few), *options]
    done = subprocess.run(
        [*command, str(output)], capture_output=True, text=True, timeout=300, env={**os.environ}
    )
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert "can no longer be read" in last and str(few / "gone") in last
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.partial").is_dir() and not output.exists()
