"""What the two init scripts share: the command line, and one call."""

import argparse
import sys
from pathlib import Path

from songgen.models import SongGenConfig
from songgen.models.initialize import PRESETS, ModelParts, create_model_folder, describe
from songgen.tasks import Task

_PUBLISHED = SongGenConfig()
_PUBLISHED_TEXT_MODEL = _PUBLISHED.text_encoder["path"]
_PUBLISHED_VOICE_MODEL = _PUBLISHED.voice_encoder["path"]
_PUBLISHED_AUDIO_MODEL = _PUBLISHED.audio_codec["path"]


def parse_arguments(task: Task, default_pattern: str, description: str | None) -> argparse.Namespace:
    """Read the command line; parts that are not named are the published ones, or small ones in the small preset."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", type=Path, help="folder of the new model")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="published", help="sizes (default: published)")
    parser.add_argument("--track_pattern", choices=task.layouts, default=default_pattern, help="token layout")
    parser.add_argument(
        "--text_model", help=f"frozen text encoder, hub id or folder (default: {_PUBLISHED_TEXT_MODEL})"
    )
    parser.add_argument("--voice_model", help=f"frozen voice encoder (default: {_PUBLISHED_VOICE_MODEL})")
    parser.add_argument(
        "--audio_model", default=_PUBLISHED_AUDIO_MODEL, help="codec, hub id or folder (default: %(default)s)"
    )
    parser.add_argument(
        "--tokenizers", type=Path, help="folder that helpers/train_tokenizers.py wrote: gives both tokenizers"
    )
    parser.add_argument(
        "--lyrics_tokenizer", help="lyrics vocabulary: file, folder or hub id (default: from --tokenizers)"
    )
    parser.add_argument("--caption_tokenizer", help="caption tokenizer (default: --text_model, else from --tokenizers)")
    parser.add_argument("--no_prompt_cross_attention", action="store_true", help="put lyrics before the audio tokens")
    parser.add_argument("--rope_embeddings", action="store_true", help="rotary instead of sinusoidal positions")
    parser.add_argument("--seed", type=int, default=0, help="of the new weights (default: 0)")
    arguments = parser.parse_args()
    if arguments.lyrics_tokenizer is None and arguments.tokenizers is None:
        parser.error(
            "a lyrics tokenizer is needed: give --lyrics_tokenizer, or train one with helpers/train_tokenizers.py"
        )
    return arguments


def parts_of(arguments: argparse.Namespace) -> ModelParts:
    """Return where the model's fixed parts come from."""
    small = arguments.preset == "small"
    text_model = arguments.text_model or (None if small else _PUBLISHED_TEXT_MODEL)
    trained_caption = arguments.tokenizers / "caption_tokenizer" if arguments.tokenizers else None
    if trained_caption is not None and not trained_caption.is_dir():
        trained_caption = None
    caption = arguments.caption_tokenizer or (text_model if text_model else None) or trained_caption
    if caption is None:
        raise ValueError("the small preset needs a caption tokenizer: give --tokenizers or --caption_tokenizer")
    return ModelParts(
        audio_codec=arguments.audio_model,
        lyrics_tokenizer=arguments.lyrics_tokenizer or arguments.tokenizers,
        caption_tokenizer=str(caption),
        text_encoder=text_model,
        voice_encoder=arguments.voice_model or (None if small else _PUBLISHED.voice_encoder),
    )


def main(task: Task, *, default_pattern: str, description: str | None) -> None:
    """Create the folder and say what it holds."""
    arguments = parse_arguments(task, default_pattern, description)
    try:
        model = create_model_folder(
            arguments.out,
            parts_of(arguments),
            track_pattern=arguments.track_pattern,
            preset=arguments.preset,
            prompt_cross_attention=not arguments.no_prompt_cross_attention,
            rope_embeddings=arguments.rope_embeddings,
            seed=arguments.seed,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.out}: {describe(model)}")
