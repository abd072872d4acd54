"""`songgen init`: create the folder of an untrained model, for mixed songs or for vocal and accompaniment."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from songgen.exit_codes import EXIT_DONE
from songgen.tasks import DUAL_TRACK, MIXED

DEFAULT_LAYOUT = "mixed_pro"
DEFAULT_PRESET = "published"


def add_arguments(
    parser: argparse.ArgumentParser,
    layouts: Sequence[str] = (*MIXED.layouts, *DUAL_TRACK.layouts),
    default_layout: str = DEFAULT_LAYOUT,
) -> None:
    """Declare the options of `songgen init`.

    Args:
        parser: parser that gets the options.
        layouts: token layouts to choose from.
        default_layout: layout to use if none is named.
    """
    from songgen.models import SongGenConfig
    from songgen.models.initialize import PRESETS

    published = SongGenConfig()
    text, voice = published.text_encoder["path"], published.voice_encoder["path"]
    unnamed = "if left out: {}, or in the small preset a small one with random weights"
    parser.add_argument("out", type=Path, help="folder of the new model")
    parser.add_argument("--preset", choices=sorted(PRESETS), default=DEFAULT_PRESET, help="sizes of the model")
    parser.add_argument(
        "--track_pattern",
        choices=layouts,
        default=default_layout,
        help="token layout: the tracks that the model writes, and their order",
    )
    parser.add_argument("--text_model", help=f"frozen text encoder, hub id or folder ({unnamed.format(text)})")
    parser.add_argument("--voice_model", help=f"frozen voice encoder, hub id or folder ({unnamed.format(voice)})")
    parser.add_argument("--audio_model", default=published.audio_codec["path"], help="codec, hub id or folder")
    parser.add_argument("--tokenizers", type=Path, help="folder that `songgen tokenizer` wrote: gives both tokenizers")
    parser.add_argument(
        "--lyrics_tokenizer",
        help="lyrics vocabulary: file, folder or hub id (if left out: from --tokenizers, otherwise the general one "
        "that songgen carries)",
    )
    parser.add_argument(
        "--caption_tokenizer",
        help="caption tokenizer, hub id or folder (if left out: that of the text encoder, otherwise from --tokenizers, "
        "otherwise the general one that songgen carries)",
    )
    parser.add_argument("--no_prompt_cross_attention", action="store_true", help="put lyrics before the audio tokens")
    parser.add_argument("--rope_embeddings", action="store_true", help="rotary instead of sinusoidal positions")
    parser.add_argument("--seed", type=int, default=0, help="seed of the new weights")


def run(arguments: argparse.Namespace) -> int:
    """Create the folder and print a description of the model.

    Raises:
        ValueError: if a part is missing or cannot be opened; nothing is written.
    """
    from songgen.models.initialize import choose_parts, create_model_folder, describe, general_notice

    parts = choose_parts(
        arguments.preset,
        audio_codec=arguments.audio_model,
        tokenizers=arguments.tokenizers,
        lyrics_tokenizer=arguments.lyrics_tokenizer,
        caption_tokenizer=arguments.caption_tokenizer,
        text_encoder=arguments.text_model,
        voice_encoder=arguments.voice_model,
    )
    if notice := general_notice(parts):
        print(notice)
    model = create_model_folder(
        arguments.out,
        parts,
        track_pattern=arguments.track_pattern,
        preset=arguments.preset,
        prompt_cross_attention=not arguments.no_prompt_cross_attention,
        rope_embeddings=arguments.rope_embeddings,
        seed=arguments.seed,
    )
    print(f"{arguments.out}: {describe(model)}")
    return EXIT_DONE
