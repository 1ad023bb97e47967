"""The code blocks of README and docs run as they stand, offline; their commands parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import succeed
from stand_in_hub import hub_server

__all__ = ["hub_server"]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TOKEN = "hf_of_the_stand_in_hub"


def blocks(page: Path, *languages: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [block for language, block in FENCED.findall(text) if language in languages]


@pytest.fixture
def folder(tmp_path, hub_server):
    """A folder with a few pictures, and an environment in which the hub is the stand-in."""
    random = np.random.default_rng(0)
    for base, label in ((60, "cat"), (170, "dog")):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(10):
            pixels = base + random.integers(0, 60, (40, 48, 3))
            Image.fromarray(pixels.astype("uint8")).save(tmp_path / "pets" / label / f"{index}.png")
    for name in "abcd":
        picture = tmp_path / "pets" / ("cat" if name in "ac" else "dog") / f"{ord(name) % 10}.png"
        Image.open(picture).save(tmp_path / f"{name}.jpg")
    (tmp_path / "flowers").symlink_to("pets")
    return tmp_path


def run(program: str, folder: Path, hub) -> str:
    hub.token = TOKEN
    cache = {"HF_HOME": str(folder / "huggingface"), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    path = f"{folder}:{ROOT}"  # training/ is not installed
    settings = {"HF_HUB_OFFLINE": "0", "PYTHONPATH": path, "MPLBACKEND": "agg", **cache}
    return succeed(program, cwd=folder, **settings).stdout


def test_every_block_of_readme_stands_alone(folder, hub_server):
    hub_server.add("timm/nf_resnet50.ra2_in1k", "model.safetensors", zeros_of("nf_resnet50"))
    page = ROOT / "README.md"
    programs = blocks(page, "python")
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 150
    assert len(programs) >= 5
    run("\n".join(f"exec({text!r}, {{}})" for text in programs), folder, hub_server)
    made = ("mine.keras", "runs/digits/report.json", "cifar10.onnx", "cifar10.tflite")
    assert all((folder / name).is_file() for name in made)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if blocks(page, "python")],
    ids=lambda page: page.stem,
)
def test_the_blocks_of_a_guide_run_one_after_the_other(page, folder, hub_server):
    program = "\n".join([BEFORE.get(page.name, ""), *blocks(page, "python")])
    assert PRINTED.get(page.name, "") in run(program, folder, hub_server)
    for name in MADE.get(page.name, ()):
        assert (folder / name).exists(), name


@pytest.mark.slow
def test_the_commands_of_a_user_run_one_after_the_other(folder, hub_server):
    """From a folder of pictures to exported files, a published model, a Space and plots."""
    (folder / "holiday").mkdir()
    for name in "ab":
        (folder / f"{name}.jpg").rename(folder / "holiday" / f"{name}.jpg")
    for name, target in (("FOLDER", "pets"), ("my_pictures", "pets"), ("my_run", "runs/flowers")):
        (folder / name).symlink_to(target)
    (folder / "cifar10").mkdir()
    for index, path in enumerate(sorted((folder / "pets").glob("*/*.png"))):
        Image.open(path).resize((32, 32)).save(folder / "cifar10" / f"{index}.png")
    found = [
        shlex.split(line, comments=True)[1:]
        for page in ("README.md", *(f"docs/{name}.md" for name in PAGES_OF_A_USER))
        for line in commands(ROOT / page)
        if line.startswith("nf-zoo ") and line.split()[1] in RUN and not LEFT_OUT.search(line)
    ]
    assert {words[0] for words in found} == set(RUN)
    said = run(COMMANDS.format(found), folder, hub_server)
    assert "holiday/a.jpg" in said and "Validation accuracy" in said
    for name in ("flowers.onnx", "model.onnx", "model.tflite", "model.xml", "saved_model"):
        assert (folder / name).exists(), name
    made = {path.name for path in (folder / "figures").iterdir()}
    for name in ("linear", "convolutional_batch_norm"):
        assert {f"{name}.{kind}" for kind in ("csv", "png", "svg")} <= made
    files = hub_server.files
    assert {"README.md", "model.safetensors"} <= files("me/flowers").keys()
    assert "app.py" in files("spaces/me/try-flowers")


PAGES_OF_A_USER = ("deploy", "hub", "demo", "signal_propagation")
RUN = (
    *("finetune", "predict", "export", "benchmark", "publish", "catalog"),
    "signal-propagation",
)
"""Commands that need nothing but pictures and the hub, and end by themselves."""

LEFT_OUT = re.compile("--private|--online|catalog add")
"""Commands that need a repository not in the stand-in hub, or change the project's catalog."""

COMMANDS = """
import glob
from nf_zoo.cli import main

for words in {}:
    words = [path for word in words for path in sorted(glob.glob(word)) or [word]]
    assert main(words) == 0, words
"""

BEFORE = {
    "training.md": """
import numpy as np, os
os.symlink(os.environ["PYTHONPATH"].split(os.pathsep)[1] + "/training", "training")
random = np.random.default_rng(0)
numbers = {"train": 256, "test": 64}
np.savez(
    "cifar10.npz",
    labels=[f"class {n}" for n in range(10)],
    **{f"{s}_images": random.integers(0, 256, (n, 32, 32, 3), "uint8") for s, n in numbers.items()},
    **{f"{s}_classes": random.integers(0, 10, n, "int32") for s, n in numbers.items()},
)
""",
}
"""Page -> what its reader has before its first block."""

MADE = {
    "convert.md": ["mine.keras"],
    "features.md": ["segmenter.onnx"],
    "finetuning.md": ["pets-model/model.keras"],
    "gradcam.md": ["gradcam.png"],
    "hub.md": ["runs/flowers/report.json"],
    "training.md": ["runs/smoke/results.json"],
}
"""Page -> files that its blocks write."""

PRINTED = {"convert.md": "156 104\n{}\n", "knn.md": "(500, 1024)\n"}
"""Page -> what a comment of a block says that it prints."""


@pytest.mark.fast
@pytest.mark.parametrize(
    "page", [*PAGES, *sorted(ROOT.glob("examples/*.ipynb"))], ids=lambda page: page.name
)
def test_nf_zoo_is_imported_before_keras_whose_notices_it_holds_back(page):
    texts = blocks(page, "python") if page.suffix == ".md" else [page.read_text(encoding="utf-8")]
    if page.name != "README.md":  # whose blocks stand alone
        texts = ["".join(texts)]
    for text in texts:
        imports = re.findall(r'^[ "]*(?:import|from) (keras|tensorflow|nf_zoo)', text, re.MULTILINE)
        assert imports[:1] in ([], ["nf_zoo"])


def zeros_of(name: str) -> bytes:
    """The bytes of timm's file of a network, all zeros."""
    from safetensors.numpy import save

    from nf_zoo.hub.foreign_names import plan
    from nf_zoo.models.classifier import build_model

    def shape(variable) -> tuple[int, ...]:
        sizes = tuple(variable.shape)
        if variable.path.endswith("/gain"):
            return (*sizes, 1, 1, 1)
        return tuple(sizes[i] for i in (3, 2, 0, 1)) if len(sizes) == 4 else sizes[::-1]

    model = build_model(name)
    return save({s.key: np.zeros(shape(s.variable), "float32") for s in plan(model, "timm")})


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse(page, monkeypatch):
    from nf_zoo.cli.arguments import build_parser
    from training import recipe

    monkeypatch.chdir(ROOT)
    for line in commands(page):
        words = shlex.split(line, comments=True)
        while "=" in words[0]:  # settings of the environment
            words.pop(0)
        if words[0] == "nf-zoo":
            build_parser().parse_args(words[1:])
        elif words[:2] == ["python", "-m"]:
            check_flags(words[2], words[3:])
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), line
        for path in re.findall(r"(?:--config=|\w+=(?=training/))(training/\S+)", line):
            fields = recipe.flatten(recipe.load(path))
            grids = re.findall(r"--grid=([\w.]+)=", line)
            assert {*re.findall(r"--config\.([\w.]+)=", line), *grids} <= fields.keys(), line


def check_flags(module: str, words: list[str]) -> None:
    """Check that a program exists and defines every flag of a command."""
    if "--" in words:  # of training.gpu_run, for its runs
        check_flags("training.main", words[words.index("--") + 1 :])
        words = words[: words.index("--")]
    base = ROOT / module.replace(".", "/")
    sources = [*base.glob("__main__.py"), *base.parent.glob(f"{base.name}.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    for flag in {word.split("=")[0] for word in words if re.match("--[a-z]", word)}:
        name = flag.removeprefix("--").split(".")[0]
        assert re.search(rf"[A-Z]\w*\(\s*\"{name}\"|\"--{name}\"", text), (module, flag)


def commands(page: Path) -> list[str]:
    """The commands of a page's shell blocks."""
    shell = "\n".join(blocks(page, "bash", "sh", "")).replace("\\\n", " ")
    shell = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), shell)
    lines = [part for line in shell.splitlines() for part in line.split(" && ")]
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]
