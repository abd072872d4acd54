"""Evaluation sums against a naive loop, over processes and layouts; and the `evaluate` modules, loaded by path."""

import numpy as np
import pytest
import torch

from songgen.families.tokens.evaluation import TokenSums
from songgen.layout import LAYOUT_NAMES, get_layout
from songgen.metrics import METRIC_NAMES, load_metric, metric_path
from songgen.models.loss import head_losses
from songgen.models.modeling_songgen import SongGenOutput
from songgen.vocabulary import IGNORE_INDEX, AudioVocabulary

NUM_CODEBOOKS, VOCABULARY = 3, AudioVocabulary(8)


def _batch(layout, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 8, (len(frames), len(layout.tracks), NUM_CODEBOOKS, max(frames)), generator=generator)
    frames = torch.tensor(frames)
    labels = layout.labels(codes, frames, VOCABULARY)
    logits = torch.randn(*labels.shape, VOCABULARY.size, generator=generator)
    # Make about half of the predictions right.
    logits.scatter_add_(3, labels.clamp(min=0)[..., None], 3 * torch.ones(*labels.shape, 1))
    return logits, labels, layout.target_mask(frames, labels.shape[-1])


def _naive(layout, batches):
    """Metrics by loops over positions and `TokenLayout.stream_table`."""
    by_stream, by_head = {}, {}
    for logits, labels, mask in batches:
        losses = -logits.log_softmax(-1)
        streams, _ = layout.stream_table(labels.shape[-1])
        for b, h, s in mask.nonzero().tolist():
            track, codebook = divmod(int(streams[h, s]), layout.num_codebooks)
            label = int(labels[b, h, s])
            value = (float(losses[b, h, s, label]), int(logits[b, h, s].argmax()) == label)
            by_stream.setdefault((layout.tracks[track], codebook), []).append(value)
            by_head.setdefault(h, []).append(value)
    metrics = {
        "loss": np.mean([np.mean([loss for loss, _ in values]) for values in by_head.values()]),
        "accuracy": np.mean([hit for values in by_head.values() for _, hit in values]),
    }
    for track in layout.tracks:
        streams = {k: values for (name, k), values in by_stream.items() if name == track}
        metrics[f"{track}/loss"] = np.mean([np.mean([loss for loss, _ in values]) for values in streams.values()])
        metrics[f"{track}/accuracy"] = np.mean([hit for values in streams.values() for _, hit in values])
        for k, values in streams.items():
            metrics[f"{track}/codebook_{k}/loss"] = np.mean([loss for loss, _ in values])
            metrics[f"{track}/codebook_{k}/accuracy"] = np.mean([hit for _, hit in values])
    return metrics


def _sums(layout, logits, labels, mask):
    """What evaluation adds up of a batch."""
    terms = head_losses(logits, torch.where(mask, labels, IGNORE_INDEX), by_target=True).targets
    output = SongGenOutput(
        torch.zeros(()), torch.zeros(layout.num_heads), mask.sum(dim=(0, 2)),
        target_mask=mask, target_losses=terms.entropies, target_hits=terms.hits,
    )  # fmt: skip
    return TokenSums(layout).of_batch(output)


@pytest.mark.parametrize("name", LAYOUT_NAMES)
def test_sums_are_those_of_a_loop_over_positions(name):
    layout = get_layout(name, NUM_CODEBOOKS)
    batches = [_batch(layout, [4, 6, 1], 0), _batch(layout, [3], 1)]
    sums = sum(_sums(layout, *batch) for batch in batches)
    assert TokenSums(layout).metrics(sums) == pytest.approx(_naive(layout, batches), rel=1e-5)


def test_padding_and_empty_batches_add_nothing():
    layout = get_layout("parallel_A_V", NUM_CODEBOOKS)
    logits, labels, mask = _batch(layout, [5, 2], 0)
    nothing = _sums(layout, torch.full_like(logits, 7.0), torch.full_like(labels, -100), torch.zeros_like(mask))
    assert not nothing.any()


def test_what_had_no_target_is_absent():
    layout = get_layout("mixed", NUM_CODEBOOKS)
    logits, labels, mask = _batch(layout, [5, 2], 0)
    assert TokenSums(layout).metrics(torch.zeros_like(_sums(layout, logits, labels, mask))) == {}
    mask[:, 2] = False
    metrics = TokenSums(layout).metrics(_sums(layout, logits, labels, mask))
    names = {f"{prefix}{name}" for prefix in ("", "mix/") for name in ("loss", "accuracy")}
    names |= {f"mix/codebook_{k}/{name}" for k in (0, 1) for name in ("loss", "accuracy")}
    assert set(metrics) == names
    assert metrics == pytest.approx(_naive(layout, [(logits, labels, mask)]), rel=1e-5)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a metric asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def test_codebook_accuracy_counts_what_is_missing_as_wrong(no_network):
    result = load_metric("codebook_accuracy").compute(
        predictions=[[[1, 2, 3], [4, 5, 6]], [[1], [2]]], references=[[[1, 2, 0], [4, 5, 6]], [[1, 1], [2, 2]]]
    )
    assert result == {"codebook_0": 3 / 5, "codebook_1": 4 / 5, "accuracy": 7 / 10}


def _tone(frequency, seconds=1.0):
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(16000 * seconds)) / 16000)


def test_mel_distance_is_zero_for_the_same_sound_and_grows_with_the_difference(no_network):
    metric = load_metric("mel_distance")
    songs = [_tone(220), _tone(330), 0.5 * _tone(220), _tone(220, 0.5), np.zeros(16000)]
    result = metric.compute(predictions=[songs[0]] * 5, references=songs, sampling_rate=16000)
    same, other, softer, shorter, silence = result["distances"]
    assert same == 0 < softer < other and softer < silence and 0 < shorter < silence
    assert result["mel_distance"] == pytest.approx(np.mean(result["distances"]))
    # Halving an amplitude is ln 2 nepers where the tone is heard at all, and nothing elsewhere.
    assert softer < np.log(2)


def test_mel_distance_of_loud_noise_measures_its_gain():
    noise = 0.5 * np.random.default_rng(0).standard_normal(16000)
    result = load_metric("mel_distance").compute(predictions=[noise], references=[0.5 * noise], sampling_rate=16000)
    assert result["mel_distance"] == pytest.approx(np.log(2), rel=1e-3)


def test_nearest_original_finds_songs_among_all(no_network):
    noise = 0.01 * np.random.default_rng(0).standard_normal(16000)
    result = load_metric("nearest_original").compute(
        predictions=[_tone(220) + noise, _tone(500)],
        references=[_tone(220), _tone(330)],
        others=[_tone(505)],
        sampling_rate=16000,
    )
    assert result == {"nearest_original": 0.5, "nearest": [0, 2]}


def test_unknown_metrics_are_named():
    with pytest.raises(ValueError, match="known: codebook_accuracy"):
        metric_path("wer")
    assert all(metric_path(name).is_file() for name in METRIC_NAMES)
