"""Opens the reference cases: tiny published-format models with what the published implementation computes."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from songgen.models import SongGenForConditionalGeneration

DATA = Path(__file__).parent / "data"
CASES = ("mixed", "mixed_pro", "parallel_std", "interleaving_A_V")


def settings(name: str) -> dict[str, Any]:
    """Return a case's configuration file."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def tensors(name: str) -> dict[str, Tensor]:
    """Return a case's inputs (`in.*`) and outputs (`out.*`)."""
    return load_file(DATA / f"{name}.io.safetensors")


def model_folder(name: str, folder: Path, **changes: Any) -> Path:
    """Write a case as a published model folder; keywords change its config.json."""
    case = settings(name)
    decoder = {**case["decoder"], "track_pattern": case["track_pattern"], "add_vocal_loss": case["add_vocal_loss"]}
    config = {
        "model_type": "songgen",
        "decoder": decoder,
        "vocab_size": case["lyrics_vocab_size"],
        "text_encoder": {**case["text_encoder"], "model_type": "t5"},
        "prompt_cross_attention": case["prompt_cross_attention"],
        "add_prenet": True,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(DATA / f"{name}.weights.safetensors", folder / "model.safetensors")
    return folder


def conditions(io: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the model's keywords of a case's caption, lyrics and voice."""
    return {
        "input_ids": io["in.input_ids"],
        "attention_mask": io["in.attention_mask"],
        "prompt_input_ids": io["in.prompt_input_ids"],
        "prompt_attention_mask": io["in.prompt_attention_mask"],
        "ref_voice_values": io["in.ref_voice_values"],
        "voice_hidden_states": io["out.voice_hidden_states"],
    }


def load(name: str, folder: Path, **options: Any) -> SongGenForConditionalGeneration:
    """Open a case through the import of published folders."""
    return SongGenForConditionalGeneration.from_pretrained(model_folder(name, folder), **options)
