"""Share of a song's codes that a prediction gives back, by codebook. Opened with `evaluate.load` by path."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Share of the reference's codes that the prediction has at the same place, by codebook."

_INPUTS = """
Args:
    predictions: for each clip, K lists of codes (one a codebook).
    references: likewise.

Returns:
    accuracy: over all codes of all references.
    codebook_<k>: over the codes of codebook k.
    A frame that the prediction lacks counts as wrong; frames beyond the reference's end are not compared.
"""


class CodebookAccuracy(evaluate.Metric):
    """See `_DESCRIPTION` and `_INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        codes = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": codes, "references": codes}),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        hits: dict[int, int] = {}
        targets: dict[int, int] = {}
        for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            if len(prediction) != len(reference):
                raise ValueError(f"clip {number}: {len(prediction)} codebooks predicted, {len(reference)} expected")
            for codebook, (found, expected) in enumerate(zip(prediction, reference, strict=True)):
                common = min(len(found), len(expected))
                same = np.asarray(found[:common]) == np.asarray(expected[:common])
                hits[codebook] = hits.get(codebook, 0) + int(same.sum())
                targets[codebook] = targets.get(codebook, 0) + len(expected)
        metrics = {f"codebook_{codebook}": hits[codebook] / total for codebook, total in targets.items() if total}
        if total := sum(targets.values()):
            metrics["accuracy"] = sum(hits.values()) / total
        return metrics
