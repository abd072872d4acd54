"""Choice of the encoders: those of the model's family, or codec and tokenizers of the model folder or the options."""

from pathlib import Path
from typing import Any

from songgen.families.encoding import Encoders
from songgen.families.registry import family_of
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.runtime.pretrained import local_folder, named_by_user
from songgen.tokenize.codes import CodecTargets, TokenTexts
from songgen.tokenize.options import TokenizeOptions
from songgen.tokenize.workspace import CODEC_FOLDER

_SMALL_FILES = (
    "config.json",
    HASHES_FILE,
    "lyrics_tokenizer.json",
    "vocab.json",
    "caption_tokenizer/*",
    "audio_codec/*",
    "voice_encoder/*.json",
)
"""Files of a model on the hub that tokenizing needs, without the weights."""


def load_encoders(options: TokenizeOptions, device: Any) -> Encoders:
    """Open the encoders of a run: those of the model's family if it has its own, otherwise codec and tokenizers.

    Args:
        options: names of the model, the codec and the tokenizers.
        device: device of the networks.

    Raises:
        ValueError: if the model is not found, names are missing, or names are given that the model does not use.
    """
    if not options.model_name_or_path:
        return _load_token_encoders(options, device)
    try:
        family = family_of(options.model_name_or_path, options.model_revision)
    except ValueError as error:
        raise _without_model(error) from error
    if family.open_encoders is None:
        return _load_token_encoders(options, device)
    named = {
        "audio_codec": options.audio_codec,
        "lyrics_tokenizer": options.lyrics_tokenizer,
        "description_tokenizer_name": options.caption_tokenizer,
        "voice_encoder": options.voice_encoder,
    }
    if given := [key for key, value in named.items() if value]:
        raise ValueError(f"{', '.join(given)}: {options.model_name_or_path} has parts of its own; remove these keys")
    return family.open_encoders(options.model_name_or_path, options.model_revision, device)


def _load_token_encoders(options: TokenizeOptions, device: Any) -> Encoders:
    """Open codec and tokenizers; those that are not named are taken from the model.

    Raises:
        ValueError: if one of them is neither named nor part of the model; the message names the key.
    """
    from songgen.codecs import load_codec
    from songgen.conditioning import caption_tokenizer_fingerprint, load_caption_tokenizer, read_voice_sample_rate
    from songgen.lyrics import VOCABULARY_FILES, VoiceBpeTokenizer
    from songgen.models.configuration_songgen import SongGenConfig
    from songgen.models.folder import read_config

    folder = _model_folder(options)
    caption_name, lyrics_name = options.caption_tokenizer, options.lyrics_tokenizer
    codec_spec = named_by_user(options.audio_codec) if options.audio_codec else None
    # Empty: the rate of the published encoder.
    voice_spec = named_by_user(options.voice_encoder) if options.voice_encoder else {}
    if folder is not None:
        config = SongGenConfig.from_dict(read_config(folder))
        codec_spec = codec_spec or config.audio_codec
        voice_spec = voice_spec or config.voice_encoder
        if caption_name is None:
            own = local_folder(config.caption_tokenizer, folder)
            caption_name = config.caption_tokenizer if own is None else str(own)
        if lyrics_name is None and any((folder / name).is_file() for name in VOCABULARY_FILES):
            lyrics_name = str(folder)
    missing = [
        key
        for key, value in (
            ("audio_codec", codec_spec),
            ("lyrics_tokenizer", lyrics_name),
            ("description_tokenizer_name", caption_name),
        )
        if not value
    ]
    if not codec_spec or not lyrics_name or not caption_name:
        where = f"the model {options.model_name_or_path} does not bring it" if folder else "no model is named"
        raise ValueError(f"name {', '.join(missing)} in the configuration: {where}")
    codec = load_codec(codec_spec, device=device, base_folder=folder)
    caption_tokenizer = load_caption_tokenizer(caption_name)
    lyrics_tokenizer = VoiceBpeTokenizer.from_pretrained(lyrics_name)
    return Encoders(
        CodecTargets(codec, _portable_spec(dict(codec.spec), folder)),
        TokenTexts(lyrics_tokenizer, caption_tokenizer, caption_tokenizer_fingerprint(caption_tokenizer)),
        voice_sample_rate=read_voice_sample_rate(voice_spec, base_folder=folder) if options.store_voice else 0,
    )


def _portable_spec(spec: dict[str, Any], model_folder: Path | None) -> dict[str, Any]:
    """Replace the path of a codec in a local folder or file by that of the copy in the data set."""
    path = str(spec.get("path") or "")
    is_local = bool(path) and (local_folder(path, model_folder) is not None or Path(path).is_file())
    return {**spec, "path": CODEC_FOLDER} if is_local else spec


def _model_folder(options: TokenizeOptions) -> Path | None:
    """Return the folder of the named model, without its weights; None if no model is named.

    Raises:
        ValueError: if the model is not found; the message names the key.
    """
    from songgen.runtime.model_folders import resolve_folder

    if not options.model_name_or_path:
        return None
    try:
        return resolve_folder(options.model_name_or_path, revision=options.model_revision, patterns=_SMALL_FILES)
    except ValueError as error:
        raise _without_model(error) from error


def _without_model(error: ValueError) -> ValueError:
    return ValueError(
        f"model_name_or_path: {error}; the model's codec and tokenizers are used, and "
        "helpers/model_init_scripts makes one"
    )
