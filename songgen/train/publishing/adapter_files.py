"""An adapter on the hub: the files to upload, under the name of a base that others can find, and facts for its card."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from pathlib import Path

from songgen.adapters.folder import ADAPTER_FILES, Adapter, read_adapter, write_adapter
from songgen.families.model_facts import ModelFacts, escaped, without_folders
from songgen.families.registry import in_own_names, write_shared_forms
from songgen.runtime.file_hashes import HASHES_FILE, record_hashes
from songgen.runtime.pretrained import is_hub_id

_SHOWN_TARGETS = 24

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PublishedAdapter:
    """An adapter as it is uploaded."""

    adapter: Adapter
    """The adapter, with the published name of its base."""
    files: dict[str, bytes]
    """Its files, hashes included."""

    @property
    def base(self) -> str:
        """Name of the base model: a hub id, or the name of a folder that others do not have."""
        return str(self.adapter.config.base_model_name_or_path or "")


def published_adapter(folder: Path, base_model: str | None = None) -> PublishedAdapter:
    """Read an adapter and return its files with the name of the base that others find.

    Args:
        folder: folder of the adapter.
        base_model: hub id of the base; None for the one that the adapter names, without folders of this machine.

    Raises:
        ValueError: if the adapter cannot be read.
    """
    adapter = in_own_names(read_adapter(folder))
    config, recipe = adapter.config, adapter.recipe
    named = base_model or (recipe.base_model if recipe is not None else config.base_model_name_or_path) or ""
    if not is_hub_id(named):
        logger.warning(
            "the base model of %s is %s, a folder that others do not have: push the base as well, and give its name "
            "with --base account/name", folder, named or "not named",
        )  # fmt: skip
        named = Path(without_folders(named)).name
    config.base_model_name_or_path = named
    if recipe is not None:
        recipe = dataclasses.replace(recipe, base_model=named)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary)
        write_adapter(target, config, adapter.weights, recipe, hashes=False)
        names = (*ADAPTER_FILES, *write_shared_forms(target, adapter))
        record_hashes(target, names)
        files = {name: (target / name).read_bytes() for name in (*names, HASHES_FILE)}
    return PublishedAdapter(dataclasses.replace(adapter, recipe=recipe), files)


def adapter_facts(published: PublishedAdapter) -> ModelFacts:
    """Return what a model card says about an adapter."""
    config, recipe = published.adapter.config, published.adapter.recipe
    form = "DoRA" if config.use_dora else "rsLoRA" if config.use_rslora else "LoRA"
    names = published.adapter.kinds
    targets = names[:_SHOWN_TARGETS] + (["..."] if len(names) > _SHOWN_TARGETS else [])
    rows = [
        ("targets", escaped(", ".join(targets))),
        ("modules trained whole", escaped(", ".join(sorted(config.modules_to_save or ())) or "none")),
    ]
    if recipe is not None:
        rows += [
            ("fingerprint of the base", f"`{recipe.base_fingerprint}`"),
            ("fingerprint of the data", "-" if recipe.data_fingerprint is None else f"`{recipe.data_fingerprint}`"),
            ("base while training", recipe.quantization or "not quantized"),
            ("steps", "-" if recipe.steps is None else f"{recipe.steps:,}"),
            ("trained with", escaped(f"songgen {recipe.program_version}, {recipe.trained_dtype}")),
        ]
    return ModelFacts(
        tags=("lora", "adapter"),
        introduction=(
            f"A {form} adapter for the text-to-song model {_link(published.base)}: small weights next to the base "
            "model, which is needed to generate songs."
        ),
        size_name="parameters of the adapter",
        head=(
            ("base model", _link(published.base)),
            ("adapter", f"{form}, rank {config.r}, alpha {config.lora_alpha}"),
        ),
        rows=tuple(rows),
    )


def _link(name: str) -> str:
    """Return the name of the base, as a link if it is on the hub."""
    return f"[{name}](https://huggingface.co/{name})" if is_hub_id(name) else f"`{escaped(name) or 'unknown'}`"
