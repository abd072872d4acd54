"""Size of a checkpoint: trained parameters, the two moments of the optimizer, and almost nothing else.

    python benchmarks/checkpoint_size.py [--freeze cross]

Trains a small model for one step, saves it with `songgen.train.checkpoints.manager`, without and with a moving average,
and compares the bytes on disk with the sum that follows from the shapes: for each trained parameter, 4 bytes for the
model, 8 for AdamW, and 4 for the average. Frozen parameters (`--freeze`) and the frozen text, voice and codec networks
take no space.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from reporting import describe_machine

from songgen.families.tokens.parameter_groups import TOKEN_GROUPS
from songgen.families.trainable import Trainable
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import CheckpointContents, TrainerState, capture_random_state
from songgen.train.optimization.ema import MovingAverage
from songgen.train.optimization.named_tensors import gather_tensors, optimizer_tensors
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer

MODEL_BYTES, OPTIMIZER_BYTES, AVERAGE_BYTES = 4, 8, 4
"""Bytes per trained parameter in float32: the parameter, AdamW's two moments, its average."""

MIB = 1024**2


def build_model(layers: int, width: int) -> SongGenForConditionalGeneration:
    """Return a mixed_pro model with random weights."""
    config = SongGenConfig(
        track_pattern="mixed_pro",
        decoder=DecoderConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, ffn_dim=4 * width
        ),
        lyrics_encoder=LyricsEncoderConfig(
            output_size=width, attention_heads=width // 64, linear_units=4 * width, num_blocks=2
        ),
    )
    torch.manual_seed(0)
    return SongGenForConditionalGeneration(config).train()


def train_one_step(model: SongGenForConditionalGeneration, trainable: Trainable) -> torch.optim.Optimizer:
    """Update the model once on random clips, so that the optimizer has the same state as in a run."""
    optimizer = build_optimizer(model, trainable, OptimizerOptions(learning_rate=1e-4))
    layers, width = model.config.voice_num_layers, model.config.voice_hidden_size
    output = model(
        codes=torch.randint(0, 1024, (1, 1, 8, 6)),
        frames=torch.tensor([6]),
        auxiliary_codes=torch.randint(0, 1024, (1, 1, 8, 6)),
        text_hidden_states=torch.randn(1, 3, model.config.text_hidden_size),
        prompt_input_ids=torch.randint(0, 100, (1, 5)),
        voice_hidden_states=torch.randn(1, layers, 2, width),
        voice_mask=torch.ones(1, 2, dtype=torch.bool),
        return_logits=False,
    )
    (output.loss + output.vocal_loss).backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def save(
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    folder: Path,
) -> Path:
    """Save a checkpoint as the trainer does, and return its folder.

    Raises:
        RuntimeError: if it could not be written; the log has the reason.
    """
    contents = CheckpointContents(
        state=TrainerState(step=1, updates=1),
        model=gather_tensors(parameters, keep=True),
        optimizer=gather_tensors(optimizer_tensors(parameters, optimizer), keep=True),
        average={} if average is None else gather_tensors(average.averages, keep=True),
        random_state=capture_random_state(),
        config={},
    )
    saved = CheckpointManager(folder, save_total_limit=1, rank=0, world_size=1).save(contents)
    if saved is None:
        raise RuntimeError(f"no checkpoint could be saved in {folder}")
    return saved


def report(folder: Path, trained: int, *, with_average: bool) -> None:
    """Print the size of every file, and the ratio of the total to the size that follows from the shapes."""
    expected = trained * (MODEL_BYTES + OPTIMIZER_BYTES + (AVERAGE_BYTES if with_average else 0))
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(f"{'with' if with_average else 'without'} a moving average:")
    for name, size in sizes.items():
        print(f"  {name:32} {size:14,} bytes")
    total = sum(sizes.values())
    terms = f"{MODEL_BYTES} + {OPTIMIZER_BYTES}" + (f" + {AVERAGE_BYTES}" if with_average else "")
    print(
        f"  {'all files':32} {total:14,} bytes = {total / MIB:.1f} MiB; "
        f"trained parameters x ({terms}) = {expected:,} bytes; ratio {total / expected:.5f}"
    )


def main() -> None:
    """Save and report a checkpoint without and with a moving average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="decoder layers (default: 8)")
    parser.add_argument("--width", type=int, default=512, help="decoder width, a multiple of 64 (default: 512)")
    parser.add_argument("--freeze", nargs="*", default=[], help="parameter groups to freeze, such as cross")
    arguments = parser.parse_args()
    print(describe_machine())
    model = build_model(arguments.layers, arguments.width)
    trainable = Trainable.choose(model, TOKEN_GROUPS, frozen=arguments.freeze)
    parameters = trainable.parameters(model)
    trained, whole = (sum(entry.numel() for entry in entries) for entries in (parameters.values(), model.parameters()))
    print(f"{arguments.layers} layers, {arguments.width} wide: {whole:,} parameters, {trained:,} of them trained")
    optimizer = train_one_step(model, trainable)
    for average in (None, MovingAverage(parameters, 0.999)):
        with tempfile.TemporaryDirectory() as name:
            report(save(parameters, optimizer, average, Path(name)), trained, with_average=average is not None)


if __name__ == "__main__":
    main()
