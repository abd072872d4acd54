"""Distance between generated and original audio. Loaded by path with `evaluate.load`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from songgen.metrics.mel import log_mel, mel_distance

_DESCRIPTION = "Mean absolute difference of log-mel spectrograms in nepers: 0 for equal sound, lower is closer."

_INPUTS = """
Args:
    predictions: mono samples of each clip, between -1 and 1.
    references: mono samples of each original, at the same rate.
    sampling_rate: samples per second.

Returns:
    mel_distance: mean over the clips; the shorter clip of a pair is padded with silence.
    distances: distance of each clip.
"""


class MelDistance(evaluate.Metric):
    """Mean absolute difference of log-mel spectrograms."""

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
