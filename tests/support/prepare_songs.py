"""Songs to prepare: tones in any format, with text files beside them."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def tone(seconds: float, *, seed: int = 0, level: float = 0.2) -> np.ndarray:
    """A chord that swells and fades, float32."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in generator.uniform(110, 880, size=3))
    return (level / 3 * chord * (0.6 + 0.4 * np.sin(2 * np.pi * time / seconds))).astype(np.float32)


def write_song(
    folder: Path,
    name: str,
    *,
    seconds: float = 3.0,
    seed: int = 0,
    prompt: str | None = "pop, sunny",
    lyrics: str | None = "la la la",
    samples: np.ndarray | None = None,
) -> Path:
    """Write `name` (with its ending) and the text files beside it; return the audio file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, seed=seed) if samples is None else samples, RATE)
    for kind, text in (("prompt", prompt), ("lyrics", lyrics)):
        if text is not None:
            path.with_name(f"{path.stem}_{kind}.txt").write_text(text, encoding="utf-8")
    return path
