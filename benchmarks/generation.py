"""Speed of generation: growth of a step's time with the length of the song, and the effect of the cache.

    python benchmarks/generation.py [--runs 2]

Prints, for each run, the median time of a decoder step from step 100 and from step 1,500 on and their ratio (the goal
is below 1.5), and the time of a short song compared with a baseline without a cache, which reads the whole sequence
again at every step. Weights are random; generation is greedy, so that both give the same codes, which is checked.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from reporting import describe_machine
from torch import Tensor

from songgen.generation.decoding import CodeChunk, generate_codes, stream_codes
from songgen.generation.options import GenerationOptions
from songgen.models import (
    Conditions,
    DecoderConfig,
    LyricsEncoderConfig,
    SongGenConfig,
    SongGenForConditionalGeneration,
)

EARLY_STEP, LATE_STEP, WINDOW = 100, 1500, 50
"""Steps whose times are compared, and the number of steps to measure from each of them."""

WANTED_RATIO = 1.5
"""Goal for the ratio of a late step's time to an early step's."""

BASELINE_FRAMES = 60
"""Length of the song that is also generated without a cache, in frames."""

MEMORY_LENGTH = 200
"""Length of the cross-attention memory: caption, lyrics and voice of a typical song."""


@dataclass(frozen=True)
class Measurement:
    """Times of one run."""

    early: float
    """Seconds per step from step 100 on."""

    late: float
    """Seconds per step from step 1,500 on."""

    cached: float
    """Seconds for a short song."""

    uncached: float
    """Seconds for the same song without a cache."""


def build_model(layers: int, width: int) -> SongGenForConditionalGeneration:
    """Return a mixed model with random weights."""
    config = SongGenConfig(
        track_pattern="mixed",
        decoder=DecoderConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, ffn_dim=4 * width
        ),
        lyrics_encoder=LyricsEncoderConfig(output_size=width, attention_heads=4, linear_units=width, num_blocks=1),
        add_vocal_loss=False,
    )
    torch.manual_seed(0)
    return SongGenForConditionalGeneration(config).eval()


def paired_step_times(
    model: SongGenForConditionalGeneration, conditions: Conditions
) -> tuple[list[float], list[float]]:
    """Return the seconds of early and late steps of two equal songs in turns, so that load affects both."""
    early, late = (_advanced(model, conditions, step) for step in (EARLY_STEP, LATE_STEP))
    early_times, late_times = [], []
    for _ in range(WINDOW):
        early_times.append(_seconds_of(early))
        late_times.append(_seconds_of(late))
    return early_times, late_times


def _advanced(model: SongGenForConditionalGeneration, conditions: Conditions, step: int) -> Iterator[CodeChunk]:
    """Start a song that yields at every step, and generate it up to a step."""
    frames = LATE_STEP + 2 * WINDOW
    options = GenerationOptions(do_sample=False, max_frames=frames, min_new_tokens=2 * frames)
    song = stream_codes(model, conditions, options=options, chunk_frames=1)
    for _ in range(step - model.layout.max_offset):
        next(song)
    return song


def _seconds_of(song: Iterator[CodeChunk]) -> float:
    """Make one step; the transfer of a frame waits for the device."""
    start = time.perf_counter()
    next(song)
    return time.perf_counter() - start


@torch.no_grad()
def draw_without_cache(model: SongGenForConditionalGeneration, conditions: Conditions, frames: int) -> Tensor:
    """Generate the same greedy song without a cache: the whole sequence again at every step (N x K x T)."""
    layout, vocabulary = model.layout, model.vocabulary
    num_steps = layout.num_steps(frames) - layout.stride
    _, frame_of_step = layout.stream_table(num_steps)
    tokens = torch.full((1, layout.num_heads, num_steps + 1), vocabulary.bos_token_id, device=model.device)
    for step in range(num_steps):
        states = model.decoder(tokens[:, :, : step + 1], conditions)
        logits = model.decoder.logits(states[:, -1:])[0, :, 0]
        for head, frame in enumerate(frame_of_step[:, step].tolist()):
            if frame >= 0:
                code = logits[head, : vocabulary.codebook_size].argmax()
                tokens[0, head, step + 1] = code if frame < frames else vocabulary.eos_token_id
    return layout.revert(tokens[:, :, 1:], frames)[0]


def measure(model: SongGenForConditionalGeneration, conditions: Conditions) -> Measurement:
    """Measure everything once.

    Raises:
        RuntimeError: if the baseline gives another song, so that the comparison would be meaningless.
    """
    early, late = paired_step_times(model, conditions)
    options = GenerationOptions(do_sample=False, max_frames=BASELINE_FRAMES, min_new_tokens=2 * BASELINE_FRAMES)
    start = time.perf_counter()
    (codes,) = generate_codes(model, conditions, options=options)
    middle = time.perf_counter()
    baseline = draw_without_cache(model, conditions, BASELINE_FRAMES)
    agreement = (baseline == codes).float().mean()
    end = time.perf_counter()
    if agreement < 1:
        raise RuntimeError(f"the baseline gives another song: {agreement:.1%} of its codes agree")
    return Measurement(statistics.median(early), statistics.median(late), middle - start, end - middle)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="decoder layers (default: 8)")
    parser.add_argument("--width", type=int, default=512, help="decoder width (default: 512)")
    parser.add_argument("--runs", type=int, default=2, help="number of runs, to show the noise (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    arguments = parser.parse_args()
    model = build_model(arguments.layers, arguments.width).to(torch.device(arguments.device))
    memory = torch.randn(1, MEMORY_LENGTH, arguments.width, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, MEMORY_LENGTH, dtype=torch.bool)
    conditions = Conditions(memory.to(model.device), mask.to(model.device))
    print(describe_machine(arguments.device))
    print(f"{arguments.layers} layers, {arguments.width} wide, one song, {arguments.device}")
    for run in range(arguments.runs):
        found = measure(model, conditions)
        ratio = found.late / found.early
        print(
            f"run {run + 1}: step {EARLY_STEP} {1e3 * found.early:.2f} ms, step {LATE_STEP} {1e3 * found.late:.2f} ms, "
            f"ratio {ratio:.2f} ({'below' if ratio < WANTED_RATIO else 'NOT below'} {WANTED_RATIO}); "
            f"{BASELINE_FRAMES} frames {found.cached:.2f} s, without cache {found.uncached:.2f} s, "
            f"{found.uncached / found.cached:.1f} x"
        )


if __name__ == "__main__":
    main()
