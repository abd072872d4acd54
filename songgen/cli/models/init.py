"""`songgen init`: create the folder of an untrained model, of codec tokens or of latents."""

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
    from songgen.families.flow.initialize import PRESETS as FLOW_PRESETS
    from songgen.models import SongGenConfig
    from songgen.models.initialize import PRESETS

    published = SongGenConfig()
    text, voice = published.text_encoder["path"], published.voice_encoder["path"]
    unnamed = "if left out: {}, or in the small preset a small one with random weights"
    parser.add_argument("out", type=Path, help="folder of the new model")
    parser.add_argument(
        "--preset",
        choices=[*sorted(PRESETS), *sorted(FLOW_PRESETS)],
        default=DEFAULT_PRESET,
        help="sizes of the model; those beginning with flow_ are flow-matching models of latents with all weights "
        "random, for trying out, and only have the options --turbo, --texts and --seed",
    )
    parser.add_argument("--turbo", action="store_true", help="of a flow-matching model: used in eight steps")
    parser.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="of a flow-matching model: captions and lyrics, one in a "
        "line, from which its tokenizer learns words (if left out: words become bytes)",
    )
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
    from songgen.models.initialize import PRESETS, choose_parts, create_model_folder, describe, general_notice

    if arguments.preset not in PRESETS:
        return _create_flow_model(arguments)
    if arguments.turbo or arguments.texts:
        raise ValueError("--turbo and --texts are for flow-matching models: give a preset that begins with flow_")
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


def _create_flow_model(arguments: argparse.Namespace) -> int:
    """Create the folder of a flow-matching model.

    Raises:
        ValueError: if options of token models were given, or the folder exists.
    """
    from songgen.families.flow.initialize import create_flow_folder

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    defaults = vars(parser.parse_args([str(arguments.out)]))
    own = {"out", "preset", "turbo", "texts", "seed"}
    given = [f"--{name}" for name, value in defaults.items() if name not in own and getattr(arguments, name) != value]
    if given:
        raise ValueError(f"{', '.join(given)}: not for flow-matching models ({arguments.preset}); leave it out")
    texts = [line for path in arguments.texts or () for line in path.read_text(encoding="utf-8").splitlines()]
    description = create_flow_folder(
        arguments.out, arguments.preset, is_turbo=arguments.turbo, texts=texts, seed=arguments.seed
    )
    print(f"{arguments.out}: {description}")
    return EXIT_DONE
