"""`songgen generate`: generate songs as audio files from a caption, lyrics and a reference voice."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.config.types import dtype_name
from songgen.generation.options import DEFAULT_MAX_SECONDS, DEFAULT_TOP_K, GenerationOptions

if TYPE_CHECKING:
    import torch

    from songgen.generation.decoding import ProgressCallback
    from songgen.generation.song_audio import SongAudio

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

WHOLE_SONG = ""
"""Label of the file that holds the whole song."""

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen generate`."""
    parser.add_argument(
        "--model", required=True, help="model folder or hub id; or an adapter or its run, applied to the base it names"
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
    parser.add_argument("--out", type=Path, required=True, help=f"audio file to write ({', '.join(FORMATS)})")
    song = parser.add_argument_group("the song")
    song.add_argument("--caption", help="genre, mood, instruments, singer")
    lyrics = song.add_mutually_exclusive_group()
    lyrics.add_argument("--lyrics", help="lyrics; lines are separated by line breaks")
    lyrics.add_argument("--lyrics_file", type=Path, help="text file with the lyrics")
    song.add_argument("--language", default="en", help="language of the lyrics")
    song.add_argument("--voice", type=Path, help="audio file of the voice to imitate (3 s of it are used)")
    song.add_argument("--voice_start", type=float, default=0.0, help="start of these 3 s in the file, in seconds")
    song.add_argument("--separate", action="store_true", help="remove the accompaniment from this file first (Demucs)")
    song.add_argument(
        "--seconds", type=float, default=DEFAULT_MAX_SECONDS, help="longest duration; a song may end earlier"
    )
    song.add_argument("--num_songs", type=int, default=1, help="number of songs; several get numbered files")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--greedy", action="store_true", help="greedy decoding instead of sampling")
    sampling.add_argument("--temperature", type=float, default=1.0, help="below 1 is more conservative")
    sampling.add_argument(
        "--top_k", type=int, default=DEFAULT_TOP_K, help="sample from the most likely codes only (0: from all)"
    )
    sampling.add_argument(
        "--top_p", type=float, default=1.0, help="sample from the most likely codes with this total probability"
    )
    sampling.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance scale (1: none)")
    sampling.add_argument("--seed", type=int, help="random seed; it gives the same song on the same kind of device")
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto uses the first available one")
    machine.add_argument(
        "--dtype", type=dtype_name, choices=DTYPES, default="auto", help="precision (auto: bfloat16 on CUDA)"
    )
    machine.add_argument("--stream", action="store_true", help="write the files while the song is generated")
    machine.add_argument("--lyrics_vocab", type=Path, help="lyrics vocabulary file, if the model folder holds none")
    machine.add_argument("--caption_tokenizer", help="caption tokenizer, folder or hub id, instead of the model's")


def run(arguments: argparse.Namespace) -> int:
    """Generate the songs and write them.

    Raises:
        ValueError: if something needs the user's attention; as much as possible is checked before the model is loaded.
    """
    options = _options(arguments)
    lyrics = _lyrics(arguments)
    if not (arguments.caption or "").strip() and not (lyrics or "").strip():
        raise ValueError("nothing to sing about: give --caption, --lyrics or --lyrics_file")
    if arguments.separate and arguments.voice is None:
        raise ValueError("--separate works on a reference voice: give --voice, or leave it out")
    _check_output(arguments.out)

    import torch

    from songgen.generation.opening import choose_model, open_choice
    from songgen.generation.pipeline import generate, model_stream
    from songgen.generation.processing_songgen import SongGenProcessor

    device = find_device(arguments.device)
    dtype = _dtype(arguments.dtype, device)
    choice = choose_model(arguments.model, arguments.adapter)
    processor = SongGenProcessor(
        choice.base, device, lyrics_vocab=arguments.lyrics_vocab, caption_tokenizer=arguments.caption_tokenizer
    )
    inputs = processor(
        text=arguments.caption,
        lyrics=lyrics,
        ref_voice_path=arguments.voice,
        start=arguments.voice_start,
        separate=arguments.separate,
        language=arguments.language,
    )
    model = open_choice(choice, dtype=dtype, any_base=arguments.any_base).to(torch.device(device))
    _check_sample_rate(arguments.out, model.config.sampling_rate)
    print(f"computing in {str(dtype).removeprefix('torch.')} on {device}", file=sys.stderr)
    keywords: dict[str, Any] = {**inputs, **vars(options)}
    with _progress_bar() as on_step:
        if arguments.stream:
            pieces: Iterable[SongAudio] = model_stream(model, on_step=on_step, **keywords)
            paths = write_stream(pieces, arguments.out, arguments.num_songs)
        else:
            songs = generate(model, on_step=on_step, return_songs=True, **keywords)
            paths = write_songs(songs, arguments.out)  # type: ignore[arg-type]
    for path in paths:
        print(path)
    return 0


def song_path(out: Path, song: int, num_songs: int, track: str = WHOLE_SONG) -> Path:
    """Return the path of a song's file: out.wav, out.vocal.wav; with several songs out-1.wav, out-1.vocal.wav."""
    number = f"-{song + 1}" if num_songs > 1 else ""
    label = f".{track}" if track else ""
    return out.with_name(f"{out.stem}{number}{label}{out.suffix}")


def write_songs(songs: "SongAudio", out: Path) -> list[Path]:
    """Write every song, and for dual-track models also its tracks; return the files.

    A mix that would clip is scaled down to full scale as a whole.
    """
    import soundfile

    paths = []
    for song, length in enumerate(songs.lengths.tolist()):
        for track, waveforms in _files_of(songs).items():
            samples = waveforms[song, :length].cpu().numpy()
            peak = abs(samples).max(initial=0.0)
            if peak > 1:
                logger.warning("%s has a peak of %.2f and is scaled down to full scale", track or "the mix", peak)
                samples = samples / peak
            path = song_path(out, song, len(songs.lengths), track)
            soundfile.write(path, samples, songs.sampling_rate, **_encoding(path))
            paths.append(path)
    return paths


def write_stream(pieces: "Iterable[SongAudio]", out: Path, num_songs: int) -> list[Path]:
    """Write pieces of songs as they are generated; return the files. Samples above full scale are clipped."""
    import soundfile

    files: dict[Path, soundfile.SoundFile] = {}
    with ExitStack() as stack:
        for piece in pieces:
            for song, length in enumerate(piece.lengths.tolist()):
                for track, waveforms in _files_of(piece).items():
                    path = song_path(out, song, num_songs, track)
                    if path not in files:
                        opened = soundfile.SoundFile(
                            path, "w", samplerate=piece.sampling_rate, channels=1, **_encoding(path)
                        )
                        files[path] = stack.enter_context(opened)
                    files[path].write(waveforms[song, :length].cpu().numpy())
                    files[path].flush()
    return list(files)


def _files_of(audio: "SongAudio") -> "dict[str, torch.Tensor]":
    """Return label -> B x samples of each file: the mix and, if there are several, each track."""
    tracks = audio.tracks if len(audio.tracks) > 1 else {}
    return {WHOLE_SONG: audio.mix, **tracks}


def _options(arguments: argparse.Namespace) -> GenerationOptions:
    """Convert the command line to options.

    Raises:
        ValueError: if values are out of range.
    """
    return GenerationOptions(
        do_sample=not arguments.greedy,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        guidance_scale=arguments.guidance,
        max_seconds=arguments.seconds,
        num_return_sequences=arguments.num_songs,
        seed=arguments.seed,
    )


def _lyrics(arguments: argparse.Namespace) -> str | None:
    """Return the lyrics from the command line or from a file."""
    if arguments.lyrics_file is None:
        return arguments.lyrics
    try:
        return arguments.lyrics_file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--lyrics_file {arguments.lyrics_file} cannot be read as UTF-8 text: {error}") from error


def _check_output(out: Path) -> None:
    """Check that the output file can be written, before anything is generated.

    Raises:
        ValueError: if it cannot.
    """
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


def _check_sample_rate(out: Path, sampling_rate: int) -> None:
    """Check that the output format takes the model's sample rate, by writing a few samples into memory.

    Raises:
        ValueError: if it does not, or the installed libsndfile lacks the format.
    """
    import numpy as np
    import soundfile

    try:
        soundfile.write(io.BytesIO(), np.zeros(sampling_rate, np.float32), sampling_rate, **_encoding(out))
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        raise ValueError(
            f"--out {out}: this format cannot be written at the model's {sampling_rate} Hz ({error}); take .wav"
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


@contextmanager
def _progress_bar() -> "Iterator[ProgressCallback]":
    """Show steps, speed and remaining time in a terminal."""
    from tqdm import tqdm

    with tqdm(unit="step", desc="generating", file=sys.stderr, disable=None) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_step
