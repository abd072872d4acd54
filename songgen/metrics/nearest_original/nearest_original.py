"""Whether a generated song is nearer to its own original than to any other. Opened with `evaluate.load` by path."""

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
    predictions: generated songs: samples in -1..1 (one channel).
    references: the original of each, at the same rate.
    sampling_rate: samples a second.
    others: further originals that no generated song belongs to.

Returns:
    nearest_original: the share.
    nearest: for each generated song the place of its nearest original, references first and then others.
"""


class NearestOriginal(evaluate.Metric):
    """See `_DESCRIPTION` and `_INPUTS`."""

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
