"""nf-zoo: residual networks without normalization, and their BatchNorm twins, on Keras 3."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "nf_zoo" / "__init__.py").read_text())[1]

EXTRAS = {
    "training": ["tensorflow-datasets", "importlib-resources", "ml_collections", "tensorboard"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.19"],
    "litert": ["ai-edge-litert"],
    "openvino": ["onnx>=1.17", "openvino>=2025.0", "nncf>=2.15"],
    "heic": ["pillow-heif>=0.22"],
    "jax": ["jax"],
    "demo": ["gradio>=6.0,<7"],
    "privacy": ["jax-privacy>=2.0", "dp-accounting>=0.6"],
    "docs": [
        *("mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1.0"),
        *("latex2mathml>=3.77", "nbconvert>=7.16", "ruff>=0.14"),
    ],
}
# Every recipe, format and backend is tried in the tests.
EXTRAS["test"] = [
    *(name for extra in ("training", "onnx", "litert", "openvino") for name in EXTRAS[extra]),
    *(name for extra in ("heic", "jax", "demo", "privacy") for name in EXTRAS[extra]),
    *("pytest>=8", "pytest-xdist>=3.6", "ruff>=0.14", "mypy>=1.15"),
    *("build>=1.2", "playwright>=1.50", "setuptools>=77", "twine>=6.1"),
    *("nbclient>=0.10", "ipykernel>=6.29"),
]

setup(
    name="nf-zoo",
    version=VERSION,
    description="Normalizer-free ResNets and their BatchNorm twins for Keras 3",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="keras tensorflow jax image classification normalizer-free resnet nfnet fine-tuning",
    # The repository has no public address yet.
    project_urls={
        "Normalizer-free networks": "https://arxiv.org/abs/2101.08692",
        "Why normalization works": "https://arxiv.org/abs/2002.10444",
    },
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["nf_zoo", "nf_zoo.*"]), "nf_zoo.weights"],
    # The shipped checkpoints live at the top of the repository and travel inside the package.
    package_dir={"nf_zoo.weights": "weights"},
    package_data={
        "nf_zoo": ["py.typed", "__init__.pyi", "data/*.tsv"],
        "nf_zoo.finetuning": ["report.html"],
        "nf_zoo.weights": ["*.toml", "*/*.safetensors", "*/*.json", "*/*.md"],
    },
    install_requires=[
        "absl-py>=2.1",
        "huggingface-hub>=1.0",
        "keras>=3.15",
        "matplotlib>=3.9",
        "numpy>=1.26",
        "pillow>=11.3",
        "rich>=13.7",
        "safetensors>=0.8",
        "scikit-learn>=1.5",
        "shtab>=1.7",
        "tensorflow>=2.21",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["nf-zoo = nf_zoo.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
