"""Single clips handed to the reader of audio, and what it says of them."""

from pathlib import Path

from songgen.data.audio import AudioOptions
from songgen.data.clip_audio import ClipAudio, read_clip
from songgen.data.manifests.clip import ClipRow, Rejection, TrackPath

OPTIONS = AudioOptions(sample_rate=16000, voice_sample_rate=24000, min_seconds=0.2, max_seconds=3.0)


def row_of(**tracks: Path) -> ClipRow:
    """A row with these tracks."""
    paths = {name: TrackPath(path.name, str(path)) for name, path in tracks.items()}
    return ClipRow("r", "c", "l", "en", paths, "m.jsonl", 7)


def read(path: Path, options: AudioOptions = OPTIONS) -> ClipAudio | Rejection:
    """What is made of a mix."""
    return read_clip(row_of(mix=path), options)


def code_of(path: Path, options: AudioOptions = OPTIONS) -> str:
    """Code under which a mix is left out, with a complete rejection."""
    result = read(path, options)
    assert isinstance(result, Rejection), "the clip was accepted"
    assert (result.id, result.file, result.line, result.path) == ("r", "m.jsonl", 7, path.name) and result.reason
    return result.code
