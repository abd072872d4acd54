"""Sizes of new models by preset, as `songgen init` makes them: what is trained, and the memory that takes."""

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

SECONDS, FRAME_RATE = 30, 50
CAPTION, LYRICS, VOICE_SAMPLES = 60, 300, 72_000
"""Size of the clip that the memory is estimated for: 30 s with a caption, lyrics and 3 s of reference voice, one at a
time, as in docs/hardware.md."""

SMALL = "small"
"""Preset whose frozen encoders are small ones of its own, which hardly need memory."""

ADAPTER = {"r": 16, "lora_alpha": 32, "target_modules": ["attention", "cross_attention", "feed_forward"]}


@dataclass(frozen=True)
class PresetCost:
    """What training a model of a preset needs on a GPU."""

    name: str
    """Name of the preset."""

    trained: int
    """Number of trained weights."""

    memory: int
    """Bytes to train all weights in bfloat16, with checkpointing of activations."""

    adapter_memory: int
    """Bytes to train an adapter of rank 16 in the same way."""


@cache
def preset_costs() -> tuple[PresetCost, ...]:
    """Return the costs of the presets of token models. Nothing is loaded: sizes follow from configurations."""
    from songgen.models.initialize import PRESETS

    return tuple(_cost(name) for name in sorted(PRESETS))


def _cost(name: str) -> PresetCost:
    from songgen.config import RunConfig
    from songgen.families.costs import BatchSize
    from songgen.families.tokens.costs import token_costs
    from songgen.models import SongGenConfig
    from songgen.models.initialize import PRESETS
    from songgen.planning.memory import Processes, StepSettings, estimate_memory

    sizes, totals, trained = PRESETS[name], [], 0
    published = SongGenConfig()
    decoder = replace(
        sizes.decoder, num_codebooks=published.decoder.num_codebooks, vocab_size=published.decoder.vocab_size
    )
    with tempfile.TemporaryDirectory() as folder:
        replace(published, decoder=decoder, lyrics_encoder=sizes.lyrics_encoder).save(Path(folder))
        for lora in (None, ADAPTER):
            keys = {
                "model_name_or_path": folder, "save_to_disk": "data", "output_dir": "out", "dtype": "bfloat16",
                "gradient_checkpointing": True, "add_vocal_loss": True, **({"lora": lora} if lora else {}),
            }  # fmt: skip
            costs = token_costs(RunConfig.from_dict(keys))
            if name == SMALL:
                costs = replace(costs, encoders={})
            batch = costs.batch(BatchSize(1, SECONDS * FRAME_RATE, CAPTION, LYRICS, VOICE_SAMPLES), "cuda")
            totals.append(estimate_memory(costs, batch, StepSettings(), Processes(), "cuda").total)
            trained = trained or costs.weights.trained
    return PresetCost(name, trained, *totals)
