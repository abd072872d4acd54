"""Distance between generated and original audio. Opened with `evaluate.load` by path."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from songgen.metrics.mel import log_mel, mel_distance

_DESCRIPTION = "Mean absolute difference of log-mel spectrograms in nepers: 0 is the same sound, lower is nearer."

_INPUTS = """
Args:
    predictions: for each clip, its samples in -1..1 (one channel).
    references: likewise, at the same rate.
    sampling_rate: samples a second.

Returns:
    mel_distance: mean over the clips; the shorter clip of a pair is followed by silence.
    distances: clip by clip.
"""


class MelDistance(evaluate.Metric):
    """See `_DESCRIPTION` and `_INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        waveform = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": waveform, "references": waveform}),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any], sampling_rate: int) -> dict[str, Any]:
        distances = [
            mel_distance(log_mel(prediction, sampling_rate), log_mel(reference, sampling_rate))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"mel_distance": float(np.mean(distances)), "distances": distances}
