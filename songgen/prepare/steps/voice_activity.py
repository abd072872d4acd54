"""The step that finds where somebody sings: a small voice detector with the weights of the package silero-vad."""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from songgen.data.audio import AudioRejected
from songgen.prepare.engine.audio_files import read_audio
from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.section import Phase, Section
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.listening.devices import choose_device
from songgen.prepare.timing.intervals import Interval
from songgen.runtime.tensor_files import read_tensors

SAMPLE_RATE = 16_000
"""Sample rate of the network."""

FRAME_SAMPLES = 512
"""Samples for each probability of the network (32 ms)."""

CONTEXT_SAMPLES = 64
"""Samples of the previous frame that the network also gets."""

FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE

BLOCK_FRAMES = 2048
"""Frames (about a minute) that go through the network at once, so that memory does not grow with the song."""


@dataclass(frozen=True)
class VoiceOptions:
    """Options of the voice detection."""

    threshold: float = 0.4
    """Probability at which a passage begins; it ends below `threshold - hysteresis`."""

    hysteresis: float = 0.15
    """How far below `threshold` the probability falls at the end of a passage."""

    min_voiced_seconds: float = 0.1
    """Shortest passage; shorter ones count as noise."""

    min_pause_seconds: float = 0.1
    """Shortest pause; shorter ones are part of the passage around them."""

    padding_seconds: float = 0.03
    """Time added on both sides of a passage, since the detector finds beginnings late."""

    lone_seconds: float = 1.0
    """A passage that is shorter than this and far from any other counts as an instrument: synthesizers and solos are
    taken for a voice now and then, singers are seldom heard once for less than a second. 0 keeps all."""

    lone_distance_seconds: float = 8.0
    """Least distance of such a passage to the next voice on both sides; at the ends of a recording, the time to the end
    and that on the other side must be as long as two distances together."""

    device: str = ""
    """Device of the network, such as `cuda:0`; empty for the GPU if there is one."""

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        if not 0 < self.threshold < 1:
            problems.append(f"threshold must be between 0 and 1, got {self.threshold:g}")
        if not 0 <= self.hysteresis < self.threshold:
            problems.append(f"hysteresis must be at least 0 and less than threshold, got {self.hysteresis:g}")
        for name in (
            "min_voiced_seconds",
            "min_pause_seconds",
            "padding_seconds",
            "lone_seconds",
            "lone_distance_seconds",
        ):
            if not getattr(self, name) >= 0:
                problems.append(f"{name} must be at least 0, got {getattr(self, name):g}")
        if problems:
            raise ValueError("; ".join(problems))


class VoiceDetector(nn.Module):
    """The network of silero-vad at 16 kHz: a short-time spectrum, four convolutions, and a memory over the frames.

    Module names are those of the published weights. The library runs the network frame by frame; here the convolutions
    process all frames at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, kernel_size=256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, kernel_size=3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, kernel_size=1)

    def forward(self, frames: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Process consecutive frames.

        Args:
            frames: T x (context + frame) samples.
            state: state that the previous call returned; None at the start.

        Returns:
            Probability of a voice in each of the T frames, and the state after them.
        """
        waves = self.stft_conv(functional.pad(frames, (0, CONTEXT_SAMPLES), mode="reflect")[:, None])
        cosines, sines = waves.chunk(2, dim=1)
        features = (cosines.square() + sines.square()).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = convolution(features).relu()
        assert features.shape[-1] == 1, features.shape
        hidden, state = self.lstm(features[:, None, :, 0], state)  # frames are the time axis, the batch is one song
        return self.final_conv(hidden[:, 0, :, None].relu())[:, 0, 0].sigmoid(), state

    @torch.inference_mode()
    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """Return the probability of a voice for every 32 ms.

        Args:
            samples: N mono samples at 16 kHz.

        Returns:
            ceil(N / 512) probabilities.
        """
        device = self.final_conv.weight.device
        num_frames = -(-len(samples) // FRAME_SAMPLES)
        padded = np.pad(samples, (CONTEXT_SAMPLES, num_frames * FRAME_SAMPLES - len(samples)))
        found, state = [], None
        for first in range(0, num_frames, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, num_frames - first)
            begin = first * FRAME_SAMPLES
            block = torch.from_numpy(padded[begin : begin + count * FRAME_SAMPLES + CONTEXT_SAMPLES]).float().to(device)
            frames = block.unfold(0, FRAME_SAMPLES + CONTEXT_SAMPLES, FRAME_SAMPLES)
            result, state = self(frames, state)
            found.append(result.cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)


def load_voice_detector(device: str = "cpu") -> VoiceDetector:
    """Load the detector with the safetensors weights in the package silero-vad, whose code is not run.

    Raises:
        ValueError: If the package is missing, or its version has no such file.
    """
    spec = importlib.util.find_spec("silero_vad")
    folders = spec.submodule_search_locations if spec is not None else None
    weights = Path(folders[0]) / "data" / "silero_vad_16k.safetensors" if folders else None
    if weights is None or not weights.is_file():
        raise ValueError(
            "finding the voice needs the weights of silero-vad 6.2 or newer: "
            'pip install -c constraints.txt -e ".[prepare]", or skip this step'
        )
    # The published weights are those of an LSTM cell, which is an LSTM layer that runs one frame at a time.
    tensors = {
        f"lstm.{name.removeprefix('lstm_cell.')}_l0" if name.startswith("lstm_cell.") else name: tensor
        for name, tensor in read_tensors(weights).items()
    }
    detector = VoiceDetector()
    detector.load_state_dict(tensors)
    return detector.eval().to(device)


def voiced_intervals(probabilities: np.ndarray, duration: float, options: VoiceOptions) -> tuple[Interval, ...]:
    """Convert probabilities to passages in which somebody sings.

    Args:
        probabilities: one for every 32 ms.
        duration: length of the recording in seconds, to which intervals are clipped.
        options: thresholds and lengths.

    Returns:
        Intervals (start, end) in seconds, in order, without overlap.
    """
    intervals: list[Interval] = []
    begin: int | None = None
    for frame, probability in enumerate([*probabilities.tolist(), 0.0]):
        if begin is None and probability >= options.threshold:
            begin = frame
        elif begin is not None and probability < options.threshold - options.hysteresis:
            intervals.append((begin * FRAME_SECONDS, min(frame * FRAME_SECONDS, duration)))
            begin = None
    if begin is not None:  # threshold - hysteresis may be 0
        intervals.append((begin * FRAME_SECONDS, duration))
    intervals = _joined(intervals, options.min_pause_seconds)
    intervals = [(start, end) for start, end in intervals if end - start >= options.min_voiced_seconds]
    intervals = _without_lone(intervals, duration, options)
    padding = options.padding_seconds
    padded = [(max(0.0, start - padding), min(duration, end + padding)) for start, end in intervals]
    return tuple((round(start, 3), round(end, 3)) for start, end in _joined(padded, 0.0))


def _without_lone(intervals: Sequence[Interval], duration: float, options: VoiceOptions) -> list[Interval]:
    """Drop short passages far from any other voice."""
    least = options.lone_distance_seconds
    kept = []
    for index, (start, end) in enumerate(intervals):
        before = start - intervals[index - 1][1] if index else start
        after = intervals[index + 1][0] - end if index + 1 < len(intervals) else duration - end
        is_far = (not index or before >= least) and (index + 1 == len(intervals) or after >= least)
        if end - start >= options.lone_seconds or not is_far or before + after < 2 * least:
            kept.append((start, end))
    return kept


def _joined(intervals: Sequence[Interval], min_pause: float) -> list[Interval]:
    """Join neighbours that are less than `min_pause` apart, or that touch."""
    joined: list[Interval] = []
    for start, end in intervals:
        if joined and (start - joined[-1][1] < min_pause or start <= joined[-1][1]):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


class VoiceStep(Step):
    """Fills in `voiced` from the vocal track, or from the mix of a song that was not separated."""

    name = "voice"
    version = 2

    def __init__(self, options: VoiceOptions) -> None:
        self.options = options
        self._detector: VoiceDetector | None = None

    def parameters(self) -> JsonObject:
        """Return all options except the device."""
        parameters = asdict(self.options)
        del parameters["device"]
        return parameters

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return which track is used."""
        return {"track": record.heard_track}

    def files(self, record: SongRecord) -> Sequence[str]:
        """Return the track that is used."""
        return [record.audio[record.heard_track]]

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether voice was not detected yet."""
        return record.voiced is None

    def start(self) -> None:
        """Load the detector."""
        self._detector = load_voice_detector(choose_device(self.options.device))

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Find the passages; `voiced_share` is the fraction of the duration in which somebody sings."""
        assert self._detector is not None, "start() comes first"
        outcomes = []
        for record in records:
            try:
                samples, rate = read_audio(folder.track(record, record.heard_track), sample_rate=SAMPLE_RATE)
            except AudioRejected as error:
                outcomes.append(StepOutput(refusal=Refusal(self.name, error.code, error.reason)))
                continue
            duration = len(samples) / rate
            voiced = voiced_intervals(self._detector.probabilities(samples), duration, self.options)
            share = sum(end - start for start, end in voiced) / duration
            outcomes.append(StepOutput(changes={"voiced": voiced, "measures": {"voiced_share": round(share, 4)}}))
        return outcomes


SECTION = Section("voice", "where somebody sings", VoiceOptions, Phase.SONGS, [VoiceStep])
