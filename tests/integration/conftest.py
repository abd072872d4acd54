"""Fixtures of several modules, for the `world` that each of them makes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from songgen.cli.main import main


@pytest.fixture
def try_it(world: Path, capfd: Any) -> Callable[..., tuple[int, str]]:
    """Try the configuration `run.json` of a world, and return the exit code and what was printed."""

    def call(*words: str) -> tuple[int, str]:
        AcceleratorState._reset_state(True)
        code = main(["try", str(world / "run.json"), *words])
        AcceleratorState._reset_state(True)
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return call
