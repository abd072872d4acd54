"""Folders of adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapters_fakes import make_adapter

from songgen.adapters.folder import write_adapter


@pytest.fixture
def adapter_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an adapter and returns its folder."""

    def write(name: str = "adapter", seed: int = 1, **config: Any) -> Path:
        _, adapter = make_adapter(seed, **config)
        folder = tmp_path / name
        folder.mkdir()
        assert adapter.recipe is not None
        write_adapter(folder, adapter.config, adapter.weights, adapter.recipe)
        return folder

    return write
