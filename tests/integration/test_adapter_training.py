"""Adapters in training are those of peft: the same losses as by hand, and folders that peft opens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from launching import make_world, records, write_config
from model_fakes import batch as random_batch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn

from songgen.adapters.folder import read_adapter, weights_fingerprint
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.families.tokens.model_folder import model_facts
from songgen.models import SongGenForConditionalGeneration
from songgen.tasks import DUAL_TRACK, MIXED, Task
from songgen.train.launch import run_training
from songgen.train.step import StepResult
from songgen.train.trainer import Trainer

STEPS, RATE, SEED, MAX_NORM = 6, 3e-3, 7, 1.0
LORA = {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["attention", "feed_forward", "projections"]}
BY_HAND = r".*\.self_attn\.(q|k|v|out)_proj|.*\.layers\.\d+\.fc[12]|(enc|audio_mert|lyrics)_to_dec_proj"
"""The same layers as in `LORA`, without our words."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


class Watched:
    """A finished run in this process, with what went into each step."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.steps: list[tuple[list[Any], torch.Tensor]] = []
        """Micro-batches and the divisors of their losses."""
        self.printed = ""

    @property
    def core(self) -> SongGenForConditionalGeneration:
        assert self.trainer is not None
        core: Any = self.trainer.core
        return core.eval()


@pytest.fixture
def train(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Watched]:
    """Run training in this process."""

    def run(name: str, returncode: int = EXIT_DONE, *, task: Task = MIXED, **changes: Any) -> Watched:
        watched, original = Watched(), Trainer.step

        def step(self: Trainer, batches: list[Any]) -> StepResult:
            watched.trainer = self
            watched.steps.append((batches, self.objective.count(batches).divisors))
            return original(self, batches)

        settings: dict[str, Any] = {
            "lora": LORA, "max_steps": STEPS, "learning_rate": RATE, "lr_scheduler_type": "constant", "seed": SEED,
            "max_grad_norm": MAX_NORM, "weight_decay": 0.01, "do_eval": False,
            "codebook_weighting": False,
        }  # fmt: skip
        config = write_config(world, output_dir=str(tmp_path / name), **settings | changes)
        AcceleratorState._reset_state(True)
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", step)
            found = run_training([str(config)], task)
        AcceleratorState._reset_state(True)
        watched.printed = "".join(capsys.readouterr())
        assert found == returncode, watched.printed
        return watched

    return run


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in records(folder) if "train/loss" in line]


def outputs(model: nn.Module, core: SongGenForConditionalGeneration) -> torch.Tensor:
    """Logits for one batch of random clips."""
    generator = torch.Generator().manual_seed(0)
    layers, width = core.config.voice_num_layers, core.config.voice_hidden_size
    inputs = random_batch(core) | {
        "codes": torch.randint(0, 16, (2, len(core.layout.tracks), 3, 6), generator=generator),
        "voice_hidden_states": torch.randn(2, layers, 3, width, generator=generator),
    }
    with torch.no_grad():
        return model.eval()(**{name: value for name, value in inputs.items() if "auxiliary" not in name}).logits


def test_losses_equal_those_of_peft_by_hand(world: Path, tmp_path: Path, train: Callable[..., Watched]) -> None:
    """peft's own wrapper on the same base, a plain AdamW, and the run's clips."""
    watched = train("run")
    core = SongGenForConditionalGeneration.from_pretrained(world / "model")
    torch.manual_seed(SEED)
    model = get_peft_model(core, LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=BY_HAND)).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), eps=1e-4, weight_decay=0.01)
    found = []
    for batches, divisors in watched.steps:
        step_losses = []
        for batch in batches:
            inputs = {name: value for name, value in batch.model_inputs().items() if "auxiliary" not in name}
            loss = model(**inputs, target_counts=divisors).loss
            loss.backward()
            step_losses.append(loss.item())
        nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        found.append(sum(step_losses))
    assert found == pytest.approx(losses(tmp_path / "run"), abs=1e-6)
    assert found[-1] != pytest.approx(found[0], abs=1e-3)
    adapter = read_adapter(tmp_path / "run").weights
    state = {name.replace(".default", ""): value for name, value in model.state_dict().items() if "lora_" in name}
    assert adapter.keys() == state.keys()
    for name, value in adapter.items():
        torch.testing.assert_close(value, state[name], atol=1e-6, rtol=1e-5, msg=name)


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {"lora": LORA},
    "dora": {"lora": {**LORA, "use_dora": True, "rank_pattern": {"attention": 2}, "alpha_pattern": {"fc1": 3}}},
    "heads": {"lora": {"target_modules": ["heads", "embed_prompts", "embed_tokens.0"]}, "lora_plus_ratio": 16},
    "whole_layers": {"lora": {**LORA, "modules_to_save": ["lm_heads.1", "embed_tokens.2"]}, "ema_decay": 0.5},
    "all_layers": {"lora": {"target_modules": "all-linear"}, "gradient_checkpointing": True},
    "frozen_groups": {"lora": {"target_modules": ["all-linear"]}, "freeze_cross": True},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_opens_what_a_run_writes(world: Path, tmp_path: Path, train: Callable[..., Watched], variant: str) -> None:
    """The last checkpoint computes what the trained model does; so does the output folder, or its moving average."""
    watched = train("run", max_steps=3, learning_rate=2e-2, **VARIANTS[variant])
    expected = outputs(watched.core, watched.core)
    for folder in (tmp_path / "run" / "checkpoint-3", tmp_path / "run"):
        core = SongGenForConditionalGeneration.from_pretrained(world / "model")
        base = outputs(core, core)
        fingerprint = weights_fingerprint(core.state_dict())
        found = outputs(PeftModel.from_pretrained(core, str(folder)), core)
        is_average = "ema_decay" in VARIANTS[variant] and folder.name == "run"
        assert torch.equal(found, expected) != is_average
        assert not torch.allclose(base, found, atol=1e-3), "the adapter does something"
        recipe = read_adapter(folder).recipe
        assert recipe is not None and recipe.base_fingerprint == fingerprint and recipe.steps == 3
        with safe_open(folder / "adapter_model.safetensors", "pt") as opened:
            assert "base_fingerprint" in str(opened.metadata())
        written = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        assert written["base_model_name_or_path"] == str(world / "model") and written["peft_type"] == "LORA"


def test_layers_of_frozen_groups_have_no_adapter(tmp_path: Path, train: Callable[..., Watched]) -> None:
    train("run", max_steps=1, lora={"target_modules": ["all-linear"]}, freeze=["lyrics_encoder"], freeze_cross=False)
    adapted = {name.split(".")[2] for name in read_adapter(tmp_path / "run").weights}
    assert adapted == {"decoder", "enc_to_dec_proj", "audio_mert_to_dec_proj", "lyrics_to_dec_proj"}
    printed = train("other", EXIT_ERROR, lora={"target_modules": ["lyrics_encoder"]}, freeze=["lyrics_encoder"]).printed
    assert "'lyrics_encoder' matches only layers that are frozen" in printed


def test_heads_that_no_loss_reaches_get_no_adapter(tmp_path: Path, train: Callable[..., Watched]) -> None:
    train("without", max_steps=1, lora={"target_modules": ["heads"]})
    train("with", max_steps=1, lora={"target_modules": ["heads"]}, add_vocal_loss=True)
    adapted = {
        name: {parameter.split(".")[3] for parameter in read_adapter(tmp_path / name).weights}
        for name in ("without", "with")
    }
    assert adapted == {"without": {"lm_heads"}, "with": {"lm_heads", "vocal_lm_heads"}}


def test_a_target_that_does_not_exist_ends_the_run_with_what_does(train: Callable[..., Watched]) -> None:
    printed = train("run", EXIT_ERROR, lora={"target_modules": ["to_q", "to_out.0"]}).printed
    assert "'to_q' matches no layer of this model; its purpose here has q_proj" in printed
    assert "its purpose here has out_proj" in printed and "Words for parts of this model: attention," in printed


def test_learning_rates_of_the_adapter(train: Callable[..., Watched]) -> None:
    lora = {"target_modules": ["attention"], "modules_to_save": ["projections"]}
    watched = train("run", max_steps=1, lora=lora, lora_learning_rate=2 * RATE, lora_plus_ratio=8)
    assert watched.trainer is not None
    kinds = {
        (kind, entry.learning_rate_factor)
        for entry in watched.trainer.engine.trainable.entries
        for kind in ("lora_A", "lora_B", "modules_to_save")
        if kind in entry.name
    }
    assert kinds == {("lora_A", 2.0), ("lora_B", 16.0), ("modules_to_save", 1.0)}
    groups = watched.trainer.engine.optimizer.param_groups
    assert {group["lr"] for group in groups} == {RATE, 2 * RATE, 16 * RATE}


@pytest.mark.parametrize("layout", ["parallel_std", "interleaving_A_V"])
def test_an_adapter_in_another_layout_than_the_base(
    world: Path, tmp_path: Path, train: Callable[..., Watched], layout: str
) -> None:
    """The base is opened in that layout by peft's user too; the recipe says so."""
    watched = train("run", task=DUAL_TRACK, max_steps=2, learning_rate=2e-2, track_pattern=layout)
    recipe = read_adapter(tmp_path / "run").recipe
    assert recipe is not None and recipe.track_pattern == layout
    core = SongGenForConditionalGeneration.from_pretrained(world / "model", track_pattern=layout)
    found = outputs(PeftModel.from_pretrained(core, str(tmp_path / "run")), core)
    assert torch.equal(found, outputs(watched.core, watched.core))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_an_adapter_on_a_quantized_base_learns(
    tmp_path: Path, train: Callable[..., Watched], quantization: str
) -> None:
    """By bitsandbytes on the CPU; the heads and the projections stay as they are."""
    lora = {**LORA, "target_modules": "all-linear", "quantization": quantization}
    watched = train("run", max_steps=24, learning_rate=2e-2, lora=lora)
    found = losses(tmp_path / "run")
    assert sum(found[-4:]) < 0.95 * sum(found[:4])
    kinds = {type(module).__name__ for module in watched.core.modules()}
    assert {"Linear4bit"} <= kinds if quantization == "nf4" else {"Linear8bitLt"} <= kinds
    assert {type(head) for head in watched.core.decoder.lm_heads} == {nn.Linear}
    assert watched.core.dtype == torch.float32
    recipe = read_adapter(tmp_path / "run").recipe
    assert recipe is not None and recipe.quantization == quantization


SIXTEEN_BITS = {"dtype": "bfloat16", "weights_dtype": "bfloat16"}
IN_16_BITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "autocast": ({}, {"dtype": "bfloat16"}),
    "weights": ({"use_dora": True, "modules_to_save": ["enc_to_dec_proj"]}, SIXTEEN_BITS),
    "weights_nf4": ({"quantization": "nf4"}, SIXTEEN_BITS),
    "weights_int8": ({"quantization": "int8"}, SIXTEEN_BITS),
}
"""Name -> keys of the adapter, and of a run in 16 bits."""


@pytest.mark.faults
@pytest.mark.parametrize("name", IN_16_BITS)
def test_an_adapter_in_16_bits_trains_like_one_in_32(tmp_path: Path, train: Callable[..., Watched], name: str) -> None:
    """The adapter itself is trained and written in float32; the model holds it, and the base, rounded."""
    lora, narrow = IN_16_BITS[name]
    common: dict[str, Any] = {"lora": {**LORA, **lora}, "learning_rate": 1e-2, "ema_decay": 0.5, "do_eval": True}
    wide = train("wide", **common).core
    watched = train("narrow", **common, **narrow)
    assert losses(tmp_path / "narrow") == pytest.approx(losses(tmp_path / "wide"), abs=0.03)
    assert losses(tmp_path / "narrow") != losses(tmp_path / "wide")
    kept = {entry.dtype for entry in watched.core.parameters()} - {torch.uint8, torch.int8}
    assert kept == {torch.bfloat16 if "weights_dtype" in narrow else torch.float32} and wide.dtype == torch.float32
    first, second = (read_adapter(tmp_path / run) for run in ("wide", "narrow"))
    assert {tensor.dtype for tensor in second.weights.values()} == {torch.float32}
    assert first.recipe == second.recipe and first.weights.keys() == second.weights.keys()
    moved = {key: second.weights[key] for key in second.weights if ".lora_B" in key}
    distance = sum((tensor - first.weights[key]).square().sum() for key, tensor in moved.items())
    assert distance < 0.1 * sum(tensor.square().sum() for tensor in moved.values())
    assert (tmp_path / "narrow" / "comparison.json").is_file(), "it can be switched off in 16 bits too"


@pytest.mark.faults
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_compiled_model_trains_its_adapter(
    tmp_path: Path, train: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    """As it is traced; without the code that would be generated, which takes a minute here."""
    compiled, compile_module = [], nn.Module.compile

    def traced(self: nn.Module, **options: Any) -> None:
        compiled.append(self)
        compile_module(self, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", traced)
    common = {"lora": {**LORA, "quantization": quantization}, "max_steps": 2, "do_eval": True}
    train("plain", **common)
    assert not compiled
    torch._dynamo.utils.counters.clear()
    watched = train("compiled", torch_compile=True, **common)
    assert len(compiled) == len(watched.core.decoder.model.decoder.layers)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    first, second = (json.loads((tmp_path / run / "comparison.json").read_text()) for run in ("plain", "compiled"))
    for side in ("without", "with"):
        assert second[side]["loss"] == pytest.approx(first[side]["loss"], abs=1e-5)
    assert read_adapter(tmp_path / "plain").weights.keys() == read_adapter(tmp_path / "compiled").weights.keys()


def test_an_adapter_folder_is_not_a_model(tmp_path: Path, train: Callable[..., Watched]) -> None:
    train("run", max_steps=1)
    printed = train("next", EXIT_ERROR, model_name_or_path=str(tmp_path / "run")).printed
    assert "it holds an adapter" in printed
    with pytest.raises(ValueError):
        model_facts(tmp_path / "run")
