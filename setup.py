"""Packaging of songgen. Every version that is known to work is pinned in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent
LANGUAGES = ["pypinyin", "cutlet", "unidic-lite", "hangul-romanize"]
ADAPTERS = ["peft>=0.21"]
PLOTS = ["matplotlib"]
TRAIN = ["accelerate", "datasets", "evaluate", "pyarrow", "tensorboard", *ADAPTERS, *PLOTS]
PAGE = [
    "starlette>=1",
    "jinja2>=3.1",
    "plotly>=7",
    "uvicorn>=0.54,<0.55",
]  # songgen/web/server.py: parts of uvicorn that are not documented
PREPARE = ["demucs", "silero-vad>=6.2", "pyloudnorm", "json-repair"]
DEMO = ["espeakng-loader", "praat-parselmouth", *PLOTS]
WANDB = ["wandb"]


def read_version() -> str:
    """Return the version that the package itself states."""
    text = (ROOT / "songgen" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    assert match, "songgen/__init__.py states no version"
    return match.group(1)


def read_long_description() -> str:
    """Return the README, which an unfinished checkout may lack."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


def find_recipes() -> dict[str, str]:
    """Return the folders of `helpers/` with configuration files, by the package that holds them in a wheel.

    The repository has one copy; `songgen.config.recipes` finds it there, and below `songgen/recipes` in a wheel.
    """
    folders = {
        path.parent.relative_to(ROOT / "helpers")
        for kind in ("training_configs", "prepare_configs", "accelerate_configs", "lora_configs")
        for path in (ROOT / "helpers" / kind).rglob("*.*")
        if path.suffix in (".json", ".yaml")
    }
    return {".".join(["songgen", "recipes", *folder.parts]): f"helpers/{folder.as_posix()}" for folder in folders}


setup(
    name="songgen",
    version=read_version(),
    description="Text-to-song models: tokenize songs, train in stages, generate in mixed and dual-track mode",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_namespace_packages(include=["songgen", "songgen.*"], exclude=["*.__pycache__", "*.__pycache__.*"]),
        *find_recipes(),
    ],
    package_dir=find_recipes(),
    package_data={
        "songgen": ["**/*.json", "**/*.md", "**/*.txt", "**/*.html", "**/*.css", "**/*.js", "**/*.svg"],
        **{package: ["*.json", "*.yaml"] for package in find_recipes()},
    },
    install_requires=[
        "torch>=2.9,<2.14",
        "transformers>=5",
        "huggingface_hub>=1",
        "tokenizers",
        "sentencepiece",
        "safetensors",
        "numpy",
        "soundfile",
        "soxr",
        "num2words",
        "psutil",
        "tinytag>=2.3",  # 2.3 reads SYLT frames
        "tqdm",
    ],
    extras_require={
        "train": TRAIN,
        "demo": DEMO,
        "page": PAGE,
        "prepare": TRAIN + PREPARE + PAGE,
        "languages": LANGUAGES,
        "separate": ["demucs"],
        "wandb": WANDB,
        "adapters": ADAPTERS,
        "8bit": ["bitsandbytes>=0.50"],
        "flow": ["diffusers>=0.42.1,<0.43"],
        "deepspeed": ["deepspeed>=0.19,<0.20; sys_platform == 'linux'"],
        "dev": ["pytest", "pytest-timeout", "pytest-xdist", "ruff", "mypy", "codespell", "pre-commit"],
    },
    entry_points={"console_scripts": ["songgen=songgen.cli.main:main"]},
)
