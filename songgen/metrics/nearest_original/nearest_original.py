"""Share of songs that are closer to their own original than to any other. Loaded by path with `evaluate.load`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from songgen.metrics.mel import log_mel, mel_distance

_DESCRIPTION = "Share of generated songs whose nearest original, by mel distance, is their own."

_INPUTS = """
Args:
    predictions: mono samples of each generated song, between -1 and 1.
    references: mono samples of the original of each song, at the same rate.
    sampling_rate: samples per second.
    others: further originals, without a generated song.

Returns:
    nearest_original: share of songs whose nearest original is their own.
    nearest: index of the nearest original of each generated song, counting references first and then others.
"""


class NearestOriginal(evaluate.Metric):
    """Share of generated songs whose nearest original is their own."""

    def _info(self) -> evaluate.MetricInfo:
        waveform = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": waveform, "references": waveform}),
        )

    def _compute(
        self,
        predictions: Sequence[Any],
        references: Sequence[Any],
        sampling_rate: int,
        others: Sequence[ArrayLike] = (),
    ) -> dict[str, Any]:
        originals = [log_mel(original, sampling_rate) for original in [*references, *others]]
        generated = (log_mel(prediction, sampling_rate) for prediction in predictions)
        nearest = [int(np.argmin([mel_distance(song, original) for original in originals])) for song in generated]
        own = [place == number for number, place in enumerate(nearest)]
        return {"nearest_original": float(np.mean(own)), "nearest": nearest}
