"""`songgen generate`: generate songs as audio files from a caption, lyrics and audio of a voice or song."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from songgen.cli.models.song_request import generate_request, progress_bar
from songgen.config.types import dtype_name
from songgen.families.use.generating import (
    GenerationRequest,
    OptionGroup,
    ProgressCallback,
    SongPiece,
    option_groups,
)
from songgen.families.use.song_folder import song_path

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Choices of --dtype."""

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
}
"""Ending of an output file -> format and encoding of libsndfile."""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen generate`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", help="model folder or hub id; or an adapter or its run, applied to the base it names"
    )
    source.add_argument(
        "--request",
        type=Path,
        metavar="FOLDER",
        help="generate what request.json of this folder asks for, instead of --model, --out and all other options; "
        "`songgen ui` writes such folders",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FOLDER[:STRENGTH]",
        help="adapter to apply: a folder, checkpoint, run or hub id; repeat it for several (strength 0 is the base)",
    )
    parser.add_argument(
        "--any_base", action="store_true", help="apply adapters that were trained on other weights, with a warning"
    )
    parser.add_argument("--out", type=Path, help=f"audio file to write ({', '.join(FORMATS)}); needed with --model")
    song = parser.add_argument_group("the song")
    song.add_argument("--caption", help="genre, mood, instruments, singer")
    lyrics = song.add_mutually_exclusive_group()
    lyrics.add_argument("--lyrics", help="lyrics; lines are separated by line breaks")
    lyrics.add_argument("--lyrics_file", type=Path, help="text file with the lyrics")
    song.add_argument("--language", default="en", help="language of the lyrics")
    song.add_argument(
        "--voice",
        type=Path,
        help="audio file of the voice to imitate (codec tokens: 3 s; flow matching: up to 30 s)",
    )
    song.add_argument(
        "--seconds",
        type=float,
        help="duration (default: 30 for codec tokens, where a song may end earlier; 60 for flow matching)",
    )
    song.add_argument("--num_songs", type=int, default=1, help="number of songs; several get numbered files")
    song.add_argument(
        "--guidance",
        type=float,
        help="classifier-free guidance scale (default: 1, none, for codec tokens and turbo models; otherwise 7)",
    )
    song.add_argument("--seed", type=int, help="random seed; it gives the same song on the same kind of device")
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto uses the first available one")
    machine.add_argument(
        "--dtype", type=dtype_name, choices=DTYPES, default="auto", help="precision (auto: bfloat16 on CUDA)"
    )
    for group in option_groups():
        section = parser.add_argument_group(f"only for {group.title}")
        for option in group.options:
            section.add_argument(f"--{option.name}", help=option.help, **option.keywords)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse options of this command that were recorded.

    Raises:
        ValueError: if there is no such option, or it has a wrong value.
    """
    parser = _Parser(prog="songgen generate", add_help=False, allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> int:
    """Generate the songs and write them.

    Raises:
        ValueError: if something needs the user's attention; as much as possible is checked before the model is loaded.
    """
    if arguments.request is not None:
        _require_alone(arguments)
        paths = generate_request(arguments.request, parse, generate_files)
    else:
        with progress_bar() as on_step:
            paths = generate_files(arguments, on_step)
    for path in paths:
        print(path)
    return 0


def generate_files(arguments: argparse.Namespace, on_step: ProgressCallback) -> list[Path]:
    """Generate the songs of a command line, write them and return the files.

    Raises:
        ValueError: if something needs the user's attention; as much as possible is checked before the model is loaded.
    """
    groups = option_groups()
    request = _request(arguments, groups)
    _check_output(arguments.out)

    import torch

    from songgen.families.registry import family_of
    from songgen.families.use.opening import choose_model, open_choice

    device = find_device(arguments.device)
    dtype = _dtype(arguments.dtype, device)
    choice = choose_model(arguments.model, arguments.adapter)
    family = family_of(choice.base)
    if family.songs is None:
        raise ValueError(f"{arguments.model} is of the family {family.name}, which is only trained here")
    family.songs.check_names(request.special, groups, family.name)
    writer = family.songs.writer(choice.base, request, device)
    model = open_choice(choice, dtype=dtype, any_base=arguments.any_base).to(torch.device(device))
    _check_form(arguments.out, writer.sample_rate(model), writer.num_channels)
    print(f"computing in {str(dtype).removeprefix('torch.')} on {device}", file=sys.stderr)
    write = write_stream if writer.has_pieces else write_songs
    return write(writer.songs(model, on_step), arguments.out, arguments.num_songs)


def write_songs(songs: Iterable[SongPiece], out: Path, num_songs: int) -> list[Path]:
    """Write every song, and for dual-track models also its tracks; return the files.

    A mix that would clip is scaled down to full scale as a whole.
    """
    import soundfile

    paths = []
    for song in songs:
        for track, samples in song.sounds.items():
            peak = abs(samples).max(initial=0.0)
            if peak > 1:
                logger.warning("%s has a peak of %.2f and is scaled down to full scale", track or "the mix", peak)
            path = song_path(out, song.song, num_songs, track)
            soundfile.write(path, samples / max(peak, 1.0), song.sample_rate, **_encoding(path))
            paths.append(path)
    return paths


def write_stream(pieces: Iterable[SongPiece], out: Path, num_songs: int) -> list[Path]:
    """Write pieces of songs as they are generated; return the files. Samples above full scale are clipped."""
    import soundfile

    files: dict[Path, soundfile.SoundFile] = {}
    with ExitStack() as stack:
        for piece in pieces:
            for track, samples in piece.sounds.items():
                path = song_path(out, piece.song, num_songs, track)
                if path not in files:
                    channels = 1 if samples.ndim == 1 else samples.shape[1]
                    opened = soundfile.SoundFile(
                        path, "w", samplerate=piece.sample_rate, channels=channels, **_encoding(path)
                    )
                    files[path] = stack.enter_context(opened)
                files[path].write(samples)
                files[path].flush()
    return list(files)


def _request(arguments: argparse.Namespace, groups: Iterable[OptionGroup]) -> GenerationRequest:
    """Convert the command line to a request.

    Raises:
        ValueError: if there is neither a caption nor lyrics, or the lyrics cannot be read.
    """
    caption, lyrics = arguments.caption or "", _lyrics(arguments) or ""
    if not caption.strip() and not lyrics.strip():
        raise ValueError("a caption or lyrics are needed: give --caption, --lyrics or --lyrics_file")
    given: Mapping[str, Any] = vars(arguments)
    special = {name: given[name] for group in groups for name in group.names if given[name] is not None}
    return GenerationRequest(
        caption=caption,
        lyrics=lyrics,
        language=arguments.language,
        voice=arguments.voice,
        seconds=arguments.seconds,
        num_songs=arguments.num_songs,
        guidance=arguments.guidance,
        seed=arguments.seed,
        special=special,
    )


def _lyrics(arguments: argparse.Namespace) -> str | None:
    """Return the lyrics from the command line or from a file."""
    if arguments.lyrics_file is None:
        return arguments.lyrics
    try:
        return arguments.lyrics_file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--lyrics_file {arguments.lyrics_file} cannot be read as UTF-8 text: {error}") from error


def _require_alone(arguments: argparse.Namespace) -> None:
    """Check that nothing is given beside --request.

    Raises:
        ValueError: if an option is: it would be ignored.
    """
    alone = vars(parse([f"--request={arguments.request}"]))
    given = [f"--{name}" for name, value in vars(arguments).items() if name in alone and value != alone[name]]
    if given:
        raise ValueError(f"--request is a whole request: leave out {', '.join(given)}")


def _check_output(out: Path | None) -> None:
    """Check that the output file can be written, before anything is generated.

    Raises:
        ValueError: if it cannot, or none is given.
    """
    if out is None:
        raise ValueError("--out is missing: name the audio file to write")
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"--out {out} does not end in one of {', '.join(FORMATS)}")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a file name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: its folder cannot be created: {error}") from error
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"--out {out}: its folder cannot be written to")


def _encoding(path: Path) -> dict[str, str]:
    """Return format and encoding of a file, as soundfile takes them."""
    audio_format, subtype = FORMATS[path.suffix.lower()]
    return {"format": audio_format, "subtype": subtype}


def _check_form(out: Path, sample_rate: int, num_channels: int) -> None:
    """Check that the output format takes a sample rate and channels, by writing a few samples into memory.

    Raises:
        ValueError: if it does not, or the installed libsndfile lacks the format.
    """
    import numpy as np
    import soundfile

    try:
        silence = np.zeros((sample_rate, num_channels), np.float32)
        soundfile.write(io.BytesIO(), silence, sample_rate, **_encoding(out))
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        raise ValueError(
            f"--out {out}: this format cannot be written at the model's {sample_rate} Hz ({error}); take .wav"
        ) from error


def find_device(name: str) -> str:
    """Return the device; "auto" is the first accelerator.

    Raises:
        ValueError: if torch does not know the name.
    """
    import torch

    if name != "auto":
        try:
            return str(torch.device(name))
        except RuntimeError as error:
            raise ValueError(f"--device {name!r} is unknown to torch; try cpu, cuda or mps") from error
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(name: str, device: str) -> "torch.dtype":
    """Return the precision; "auto" is bfloat16 on GPUs that support it, otherwise float32."""
    import torch

    if name == "auto":
        has_bfloat16 = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return getattr(torch, name)
