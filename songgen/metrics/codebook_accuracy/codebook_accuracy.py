"""Share of a song's codes that are predicted correctly, by codebook. Loaded by path with `evaluate.load`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Share of the reference's codes that the prediction has at the same position, by codebook."

_INPUTS = """
Args:
    predictions: K lists of codes for each clip, one per codebook.
    references: K lists of codes for each clip.

Returns:
    accuracy: share over all codes of all references.
    codebook_<k>: share over the codes of codebook k.
    A frame missing from the prediction counts as wrong; frames past the reference's end are ignored.
"""


class CodebookAccuracy(evaluate.Metric):
    """Share of correctly predicted codes, over all codebooks and for each of them."""

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
