"""What a launch may ask of DeepSpeed, and what is refused before anything is loaded."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.utils import DeepSpeedPlugin

from songgen.families.trainable import Trainable
from songgen.runtime.processes.deepspeed_launch import deepspeed_plugin
from songgen.runtime.processes.start import deepspeed_launch
from songgen.train.optimization.deepspeed import prepare_zero


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch with ZeRO-2, on a machine that has DeepSpeed."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(deepspeed_launch, "is_deepspeed_available", lambda: True)


def test_another_launch_has_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    assert deepspeed_plugin("float16") is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zero_2_is_taken(dtype: str) -> None:
    plugin = deepspeed_plugin(dtype)
    assert isinstance(plugin, DeepSpeedPlugin) and plugin.zero_stage == 2


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_launch, "is_deepspeed_available", lambda: False)
    with pytest.raises(ValueError, match=r"\[deepspeed\].*fsdp2_zero2_8_gpus.yaml"):
        deepspeed_plugin("bfloat16")


def test_everything_that_is_not_supported_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DEEPSPEED_ZERO_STAGE": "3",
        "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
        "GRADIENT_CLIPPING": "1.0",
        "GRADIENT_ACCUMULATION_STEPS": "4",
    }.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(ValueError) as refusal:
        deepspeed_plugin("float16")
    for part in (
        "ZeRO stage 3",
        "fsdp2_8_gpus.yaml",
        "offload_optimizer_device cpu",
        "max_grad_norm",
        "gradient_accumulation_steps",
        "dtype float16",
        "fsdp2_zero2_8_gpus.yaml",
    ):
        assert part in str(refusal.value)


def test_sections_of_a_deepspeed_file_that_would_be_ignored_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "deepspeed.json"
    settings = {"zero_optimization": {"stage": 2, "overlap_comm": True}, "train_micro_batch_size_per_gpu": 1}
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    file.write_text(json.dumps(settings))
    plugin = deepspeed_plugin("bfloat16")
    assert plugin is not None and plugin.deepspeed_config["zero_optimization"]["overlap_comm"]
    file.write_text(json.dumps(settings | {"optimizer": {"type": "Adam"}, "flops_profiler": {}}))
    with pytest.raises(ValueError, match="sections flops_profiler, optimizer"):
        deepspeed_plugin("bfloat16")


def test_an_optimizer_whose_state_cannot_be_shared_out_is_refused() -> None:
    model = torch.nn.Linear(2, 2)
    plugin = deepspeed_plugin("float32")
    assert plugin is not None
    with pytest.raises(ValueError, match="set optimizer to adamw"):
        prepare_zero(
            model, Trainable.choose(model), torch.optim.SGD(model.parameters()), plugin, "float32", torch.device("cpu")
        )
