"""Small stand-ins for codec and tokenizers, a corpus of short clips, and a command line that uses them."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from limits import SAFETY_SECONDS

from songgen.data.manifests.raw_rows import ColumnNames
from songgen.data.manifests.row_reader import ManifestOptions
from songgen.data.manifests.sources import ManifestSpec
from songgen.families.encoding import Encoders
from songgen.tokenize import TokenizeOptions, tokenize_data
from songgen.tokenize.codes import CodecTargets, TokenTexts

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000
VOICE_RATE = 12000


class FakeCodec:
    """Two codebooks of 64: the mean level of each frame, coarse and fine. A clip's codes depend on that clip alone."""

    sample_rate, hop_length, num_codebooks, codebook_size = RATE, 80, 2, 64
    device = torch.device("cpu")

    def __init__(self, fingerprint: str = "fake-codec") -> None:
        self.fingerprint = fingerprint
        self.spec: dict[str, Any] = {"type": "fake", "path": "example/fake"}
        self.num_clips = 0

    def encode(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert waveforms.dtype == torch.float32 and waveforms.shape[1] == 1
        self.num_clips += len(waveforms)
        frames = torch.div(lengths + self.hop_length - 1, self.hop_length, rounding_mode="floor")
        num_frames = int(frames.max())
        padded = torch.nn.functional.pad(waveforms, (0, num_frames * self.hop_length - waveforms.shape[2]))
        level = padded.reshape(len(waveforms), num_frames, self.hop_length).abs().mean(-1)
        codes = torch.stack([(level * 63).long(), (level * 1e4).long() % 64], dim=1).clamp(0, 63)
        return codes * (torch.arange(num_frames) < frames[:, None])[:, None], frames


class FakeLyricsTokenizer:
    """One id a character; capital letters are unknown."""

    fingerprint = "fake-lyrics"
    unknown_token_id = 1

    def encode_lyrics(self, text: str, language: str) -> list[int]:
        return [261, *(1 if letter.isupper() else ord(letter) for letter in text), 0]


class FakeCaptionTokenizer:
    def __call__(self, text: str) -> Any:
        return type("Encoding", (), {"input_ids": [len(word) for word in text.split()] + [1]})()


def fake_encoders(codec: FakeCodec | None = None, lyrics: Any = None) -> Encoders:
    codec = codec or FakeCodec()
    texts = TokenTexts(lyrics or FakeLyricsTokenizer(), FakeCaptionTokenizer(), "fake-caption")
    return Encoders(CodecTargets(codec, codec.spec), texts, VOICE_RATE)  # type: ignore[arg-type]


def tone(seconds: float, rate: int = RATE, level: float = 0.3, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    fade = np.linspace(0.2, 1, len(time))
    return (level * fade * np.sin(2 * np.pi * generator.uniform(100, 400) * time)).astype(np.float32)


def write_corpus(folder: Path, num_clips: int) -> Path:
    """Write clips of different lengths with the columns of the published layout; return the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(num_clips):
        seconds = 0.3 + 0.05 * (index * 7 % 11)
        mix, vocal = tone(seconds, seed=index), tone(seconds, level=0.1, seed=100 + index)
        for name, samples in (("mix", mix), ("vocal", vocal), ("acc", mix - vocal)):
            soundfile.write(folder / f"{name}{index:03d}.wav", samples, RATE)
        rows.append(
            {
                "fname": f"clip{index:03d}",
                "caption": f"a song, number {index}",
                "lyrics": f"la la {index}",
                "audio_file_name": f"mix{index:03d}.wav",
                "vocal_file_name": f"vocal{index:03d}.wav",
                "acc_file_name": f"acc{index:03d}.wav",
                "language": "english",
                "duration": seconds,
            }
        )
    manifest = folder / "metadata.jsonl"
    write_manifest(manifest, rows)
    return manifest


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_manifest(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def options_for(manifest: Path | str, output: Path, **changes: Any) -> TokenizeOptions:
    options = TokenizeOptions(
        splits={"train": (ManifestSpec(str(manifest)),)},
        output_folder=output,
        manifests=ManifestOptions(ColumnNames(target="audio_abspath", references=("vocal_abspath", "acc_abspath"))),
        max_seconds=5.0,
        max_text_length=500,
        batch_size=3,
    )
    return replace(options, **changes)


def run(options: TokenizeOptions, codec: FakeCodec | None = None) -> Any:
    return tokenize_data(options, load=lambda *_: fake_encoders(codec))


def shard_hashes(folder: Path) -> dict[str, str]:
    """Hash of every shard and of what describes them."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted([*folder.rglob("*.arrow"), folder / "dataset.json", folder / "rejected.jsonl"])
    }


def launch(
    manifest: Path, output: Path, processes: int = 1, kill_at: int = 0, package: Path = ROOT, number: int = 9
) -> subprocess.CompletedProcess[str]:
    """Preprocess in processes of their own: `kill_at` names a call of the codec at which they get the signal
    `number`, `package` the folder of `songgen`."""
    script = [__file__, str(manifest), str(output), str(kill_at), str(int(number))]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(package), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, *script], env=environment, capture_output=True, text=True, timeout=SAFETY_SECONDS
    )


class KillingCodec(FakeCodec):
    """Sends its process a signal at a given call; 9 ends it as a lost machine would."""

    def __init__(self, calls: int, number: int = 9) -> None:
        super().__init__()
        self.calls, self.number = calls, number

    def encode(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls -= 1
        if self.calls == 0:
            os.kill(os.getpid(), self.number)
        return super().encode(waveforms, lengths)


if __name__ == "__main__":
    manifest_name, output_name, kill_at, *signal_number = sys.argv[1:]
    codec = KillingCodec(int(kill_at), *map(int, signal_number)) if int(kill_at) else None
    run(options_for(manifest_name, Path(output_name)), codec)
