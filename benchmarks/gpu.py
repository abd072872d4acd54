"""Training speed of the published configuration on a GPU: tokens per second and share of the bf16 peak.

    python benchmarks/gpu.py [--batch-sizes 4 8 16] [--layouts mixed_pro interleaving_A_V]
    python benchmarks/gpu.py --tiny --device cpu          # a few layers, to check that it runs

Steps as in training: bf16 autocast with float32 weights, forward, backward, clipping, fused AdamW, with and without
`torch.compile` (layer by layer) and gradient checkpointing, for songs of 15 seconds: slightly more than 750 decoder
steps in the mixed layouts and 1,500 in the interleaving ones. Codes are random, and the states of the frozen encoders
are given. Every setting is measured twice.

The share of the peak counts the operations of the model, without those that checkpointing repeats: two for every weight
of a matrix and every position, plus those of attention (of causal attention, the half that is not masked), times three
for forward and backward.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from reporting import describe_machine, synchronize
from torch import Tensor, nn

from songgen.families.trainable import Trainable
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer

PEAK_TERAFLOPS = {
    "H200": 989,
    "GH200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "RTX 4090": 165,
}
"""Part of a device's name -> dense bf16 tensor-core peak from its data sheet; the longest matching part is used."""

SECONDS, FRAME_RATE = 15, 50
CAPTION_LENGTH, LYRICS_LENGTH, VOICE_FRAMES = 60, 150, 225
VOCAL_WEIGHT, MAX_GRADIENT_NORM = 0.1, 1.0
WARMUP_STEPS, NUM_RUNS = 3, 2


@dataclass(frozen=True)
class Setting:
    """Setting of a measurement."""

    layout: str
    """Name of the layout (`track_pattern`)."""
    batch_size: int
    """Number of songs in a step."""
    compiled: bool
    """Whether `torch.compile` is used."""
    checkpointing: bool
    """Whether decoder layers are recomputed in the backward pass."""


def build_config(layout: str, *, tiny: bool) -> SongGenConfig:
    """Return the published sizes, or a few layers of the same kind."""
    vocal = layout == "mixed_pro"
    if not tiny:
        return SongGenConfig(track_pattern=layout, add_vocal_loss=vocal)
    return SongGenConfig(
        track_pattern=layout,
        add_vocal_loss=vocal,
        decoder=DecoderConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, ffn_dim=256),
        lyrics_encoder=LyricsEncoderConfig(output_size=128, attention_heads=2, linear_units=256, num_blocks=1),
    )


def random_inputs(model: SongGenForConditionalGeneration, batch_size: int, frames: int) -> dict[str, Tensor]:
    """Return random keyword arguments of the model on its device."""
    config, device = model.config, model.device
    shape = (batch_size, len(model.layout.tracks), config.decoder.num_codebooks, frames)
    inputs = {
        "codes": torch.randint(0, model.vocabulary.codebook_size, shape, device=device),
        "frames": torch.full((batch_size,), frames, device=device),
        "text_hidden_states": torch.randn(batch_size, CAPTION_LENGTH, config.text_hidden_size, device=device),
        "attention_mask": torch.ones(batch_size, CAPTION_LENGTH, dtype=torch.long, device=device),
        "prompt_input_ids": torch.randint(0, config.lyrics_vocab_size, (batch_size, LYRICS_LENGTH), device=device),
        "prompt_attention_mask": torch.ones(batch_size, LYRICS_LENGTH, dtype=torch.long, device=device),
        "voice_hidden_states": torch.randn(
            batch_size, config.voice_num_layers, VOICE_FRAMES, config.voice_hidden_size, device=device
        ),
        "voice_mask": torch.ones(batch_size, VOICE_FRAMES, dtype=torch.bool, device=device),
    }
    if config.add_vocal_loss:
        inputs["auxiliary_codes"] = torch.randint_like(inputs["codes"][:, :1], model.vocabulary.codebook_size)
    return inputs


def operations_per_song(config: SongGenConfig, frames: int) -> float:
    """Return the floating-point operations of forward and backward pass for one song."""
    decoder, lyrics, layout = config.decoder, config.lyrics_encoder, config.layout
    steps, memory = layout.num_steps(frames), CAPTION_LENGTH + LYRICS_LENGTH + VOICE_FRAMES
    width = decoder.hidden_size
    share, cross_share = (
        heads / decoder.num_attention_heads for heads in (decoder.key_value_heads, decoder.cross_key_value_heads)
    )
    per_step = width * width * (2 + 2 * share) + 2 * width * width + 2 * width * decoder.ffn_dim
    per_memory_position = 2 * width * width * cross_share
    weights = decoder.num_hidden_layers * (steps * per_step + memory * per_memory_position)
    num_heads = layout.num_heads * (2 if config.add_vocal_loss else 1)
    weights += steps * num_heads * decoder.vocab_size * width
    # Scores and their product with the values: two multiplications of steps x positions x width each.
    attention = decoder.num_hidden_layers * 2 * width * (steps * steps / 2 + steps * memory)
    inner = lyrics.output_size
    lyrics_block = LYRICS_LENGTH * (4 * inner * inner + 2 * inner * lyrics.linear_units)
    lyrics_block += (2 * LYRICS_LENGTH - 1) * inner * inner
    lyrics_block += LYRICS_LENGTH * inner * (2 * LYRICS_LENGTH + 2 * LYRICS_LENGTH - 1)
    weights += lyrics.num_blocks * lyrics_block + LYRICS_LENGTH * 2 * inner * width
    weights += CAPTION_LENGTH * config.text_hidden_size * width + VOICE_FRAMES * config.voice_hidden_size * width
    return 3 * 2 * (weights + attention)


def peak_operations(device: torch.device) -> float | None:
    """Return the device's dense bf16 peak in operations per second, or None if its name is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    fitting = [part for part in PEAK_TERAFLOPS if all(word in name for word in part.split())]
    return PEAK_TERAFLOPS[max(fitting, key=len)] * 1e12 if fitting else None


def training_step(
    model: SongGenForConditionalGeneration, inputs: dict[str, Tensor], *, compiled: bool
) -> Callable[[], None]:
    """Return a function that makes one step."""
    optimizer = build_optimizer(model, Trainable.choose(model), OptimizerOptions(learning_rate=1e-4))
    if compiled:
        for layer in model.decoder.model.decoder.blocks:
            layer.compile(dynamic=True)

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16):
            output = model(**inputs, return_logits=False)
            loss = output.loss if output.vocal_loss is None else output.loss + VOCAL_WEIGHT * output.vocal_loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds_per_step(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Return the time of consecutive steps, as in training."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / steps


def measure(setting: Setting, device: torch.device, *, tiny: bool, steps: int) -> Iterator[str]:
    """Yield a line for each run."""
    config = build_config(setting.layout, tiny=tiny)
    frames = 20 if tiny else SECONDS * FRAME_RATE
    torch.manual_seed(0)
    with device:
        model = SongGenForConditionalGeneration(config).train()
    model.set_gradient_checkpointing(setting.checkpointing)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = training_step(model, random_inputs(model, setting.batch_size, frames), compiled=setting.compiled)
    for _ in range(WARMUP_STEPS):
        step()
    positions = config.layout.num_steps(frames)
    tokens = frames * config.decoder.num_codebooks * len(config.layout.tracks)
    operations, peak = operations_per_song(config, frames), peak_operations(device)
    for run in range(1, NUM_RUNS + 1):
        seconds = seconds_per_step(step, steps, device)
        songs = setting.batch_size / seconds
        line = (
            f"{setting.layout}, {positions} steps, batch {setting.batch_size}, "
            f"{'compiled' if setting.compiled else 'eager'}, "
            f"{'with' if setting.checkpointing else 'without'} checkpointing, run {run}: "
            f"{1e3 * seconds:.0f} ms per step, "
            f"{songs * positions:,.0f} positions/s, {songs * tokens:,.0f} codec tokens/s, "
            f"{songs * operations / 1e12:.2f} TFLOP/s"
        )
        if peak is not None:
            line += f", {songs * operations / peak:.1%} of the bf16 peak ({peak / 1e12:.0f} TFLOP/s)"
        if device.type == "cuda":
            line += f", {torch.cuda.max_memory_allocated(device) / 1024**3:.1f} GiB"
        yield line


def main() -> None:
    """Measure every combination of settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", nargs="+", default=["mixed_pro", "interleaving_A_V"], help="track patterns")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="number of songs in a step")
    parser.add_argument("--compile", choices=("off", "on", "both"), default="both", help="torch.compile")
    parser.add_argument("--checkpointing", choices=("off", "on", "both"), default="both", help="gradient checkpointing")
    parser.add_argument("--steps", type=int, default=10, help="number of steps in a run (default: 10)")
    parser.add_argument("--tiny", action="store_true", help="two narrow layers and 20 frames, to check that it runs")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: cuda)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --tiny --device cpu checks that the script runs")
    choices = {"off": [False], "on": [True], "both": [False, True]}
    print(describe_machine(device))
    combinations = itertools.product(
        arguments.layouts, arguments.batch_sizes, choices[arguments.compile], choices[arguments.checkpointing]
    )
    for values in combinations:
        setting = Setting(*values)
        try:
            for line in measure(setting, device, tiny=arguments.tiny, steps=arguments.steps):
                print(line, flush=True)
        except torch.cuda.OutOfMemoryError:
            print(f"{setting}: out of memory", flush=True)
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
