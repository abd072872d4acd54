"""Diagnosis of adapter folders: their files, how they were made, and whether their base is there and the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from songgen.adapters.choice import AdapterChoice, base_of
from songgen.adapters.folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    Adapter,
    read_adapter,
)
from songgen.doctor.findings import Finding, error, ok, warning
from songgen.doctor.hashes import examine_hashes
from songgen.families.use.opening import ModelChoice, base_folder, open_choice
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.runtime.pretrained import is_hub_id

_FIX = "restore it from a copy, or export the adapter again"


def examine_adapter(folder: Path) -> Iterator[Finding]:
    """Check an adapter folder: hashes, configuration, every value, and its base if that is a folder here."""
    if (folder / HASHES_FILE).is_file():
        yield from examine_hashes(folder)
    try:
        adapter = read_adapter(folder)
    except ValueError as problem:
        yield error("adapter", str(problem), _FIX)
        return
    config = adapter.config
    form = "DoRA" if config.use_dora else "rsLoRA" if config.use_rslora else "LoRA"
    yield ok(ADAPTER_CONFIG_FILE, f"{form}, rank {config.r}, alpha {config.lora_alpha}, on {', '.join(adapter.kinds)}")
    elements = sum(tensor.numel() for tensor in adapter.weights.values())
    yield ok(ADAPTER_WEIGHTS_FILE, f"{elements:,} values, every one finite")
    if adapter.is_idle:
        yield warning(
            ADAPTER_WEIGHTS_FILE, "the adapter changes nothing: every lora_B is 0",
            "train it longer, or with a higher learning rate",
        )  # fmt: skip
    yield from _recipe(adapter)
    yield from _base(folder, adapter)


def _recipe(adapter: Adapter) -> Iterator[Finding]:
    recipe = adapter.recipe
    if recipe is None:
        yield ok("recipe", "none: another program wrote this folder")
        return
    steps = "" if recipe.steps is None else f"{recipe.steps} steps, "
    quantized = "" if recipe.quantization is None else f", base in {recipe.quantization}"
    yield ok("recipe", f"{steps}{recipe.trained_dtype}{quantized}, songgen {recipe.program_version}")


def _base(folder: Path, adapter: Adapter) -> Iterator[Finding]:
    """Compare an adapter with the base that it names, which is only opened if it is a folder here."""
    try:
        named = base_of(folder)
        if is_hub_id(named):
            yield ok("base", f"{named} on a hub; it is compared when the adapter is used")
            return
        base = base_folder(folder)
    except ValueError as problem:
        yield warning("base", str(problem))
        return
    try:
        choice = ModelChoice(base, (AdapterChoice(folder),))
        open_choice(choice)
    except ValueError as problem:
        yield error("base", str(problem))
        return
    known = "" if adapter.recipe is None else f", fingerprint {adapter.recipe.base_fingerprint[:12]}"
    yield ok("base", f"{base}: the adapter fits{known}")
