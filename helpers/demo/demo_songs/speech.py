"""Words spoken by the espeak-ng library.

The library keeps state between words (random numbers, pitch flutter). Therefore all words are spoken in one order in a
separate process, so that the samples depend only on the list of words and voices.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

EXTRA_MISSING = (
    "the demo songs need the packages espeakng-loader and praat-parselmouth; install them with "
    "`pip install espeakng-loader praat-parselmouth` (the demo extra of this project)"
)

# Constants of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_LONGEST_DATA_PATH = 159

_WORDS_PER_MINUTE = 150
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak_words(
    words: Sequence[str], voices: Sequence[tuple[str, int]]
) -> tuple[dict[tuple[str, str], np.ndarray], int]:
    """Speak every word with every voice.

    Args:
        words: Words in the language of the voices.
        voices: Name and pitch setting (0-100) of each espeak-ng voice.

    Returns:
        float32 samples in [-1, 1] by (word, voice name), and their sample rate in Hz.

    Raises:
        ValueError: if the packages are missing, or a voice or its data cannot be opened.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_speak_here, (list(words), list(voices)))


def _speak_here(words: list[str], voices: list[tuple[str, int]]) -> tuple[dict[tuple[str, str], np.ndarray], int]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ValueError(EXTRA_MISSING) from error

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[np.ndarray] = []

    def keep(samples: ctypes._Pointer[ctypes.c_short], count: int, events: int | None) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _SYNTH_CALLBACK(keep)
    spoken: dict[tuple[str, str], np.ndarray] = {}
    with _short_path(espeakng_loader.get_data_path()) as data_path:
        rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path.encode(), _INITIALIZE_DONT_EXIT)
        if rate <= 0:
            raise ValueError(f"espeak-ng could not open its data in {data_path}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        library.espeak_SetSynthCallback(callback)
        for name, pitch in voices:
            if library.espeak_SetVoiceByName(name.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {name!r}")
            library.espeak_SetParameter(_PARAMETER_RATE, _WORDS_PER_MINUTE, 0)
            library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
            library.espeak_SetParameter(_PARAMETER_RANGE, 0, 0)
            for word in words:
                chunks.clear()
                text = word.encode()
                library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, _CHARS_UTF8, None, None)
                library.espeak_Synchronize()
                spoken[word, name] = np.concatenate(chunks).astype(np.float32) / 32768
    return spoken, rate


@contextlib.contextmanager
def _short_path(data_path: str) -> Iterator[str]:
    """Yield a path to the folder that fits into espeak-ng's fixed buffer."""
    if len(data_path) <= _LONGEST_DATA_PATH:
        yield data_path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "espeak-ng-data"
        link.symlink_to(data_path, target_is_directory=True)
        yield str(link)
