"""Adapters of flow models: where they are attached, and in which forms they are written and read."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_adapters import VARIANTS, Trained, configured, trained_adapter, velocity
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_flow import tiny_pipeline, write_tiny_pipeline
from torch import Tensor, nn

from songgen.adapters.choice import find_adapter, parse_choice
from songgen.adapters.folder import COMFYUI_FILE, DIFFUSERS_FILE, read_adapter, weights_fingerprint
from songgen.families.flow.adapter_formats import own_module, published_name
from songgen.families.flow.model import FlowModel
from songgen.families.flow.parameter_groups import FLOW_LAYERS, choose_trained, planned_training
from songgen.families.use.exporting import export_adapter, export_merged
from songgen.families.use.opening import ModelChoice, choose_model, open_attached, open_choice

RAP = {
    "r": 256, "lora_alpha": 32, "use_rslora": True,
    "target_modules": ["linear_q", "linear_k", "linear_v", "to_q", "to_k", "to_v", "to_out.0", "speaker_embedder"],
}  # fmt: skip
"""The form of the first ACE-Step's `zh_rap_lora_config.json`."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("flow") / "base")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trained adapters by their variants, each made once."""
    made: dict[str, Trained] = {}

    def get(variant: str) -> Trained:
        if variant not in made:
            folder = tmp_path_factory.mktemp("adapters") / variant
            made[variant] = trained_adapter(base, folder, **VARIANTS[variant])
        return made[variant]

    return get


@pytest.fixture
def silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing may warn, by either way."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    logger.removeHandler(caplog.handler)
    assert not [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def opened(base: Path, adapter: Path, strength: float = 1.0) -> FlowModel:
    core: FlowModel = open_choice(choose_model(base, [f"{adapter}:{strength}"]), any_base=False)
    return core


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())


def layers_of(base: Path, *targets: str) -> set[str]:
    """The layers that get an adapter, without the number of the block."""
    _, plan = planned_training(configured(base, target_modules=list(targets)), FlowModel.open(base))
    assert plan is not None
    return {
        name.removeprefix("transformer.").removeprefix("layers.0.").removeprefix("layers.1.") for name in plan.ranks
    }


PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
TIMES = {f"{part}.{name}" for part in ("time_embed", "time_embed_r") for name in ("linear_1", "linear_2", "time_proj")}


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (["attention"], {f"self_attn.{name}" for name in PROJECTIONS}),
        (["cross_attention"], {f"cross_attn.{name}" for name in PROJECTIONS}),
        (["feed_forward"], {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        (["projections"], {"condition_embedder", *TIMES}),
        (["decoder.layers.0.cross_attn.q_proj"], {"cross_attn.to_q"}),
        (["o_proj"], {"self_attn.to_out.0", "cross_attn.to_out.0"}),
        (["transformer_blocks.1.attn.to_v"], {"self_attn.to_v"}),
    ],
)
def test_targets_are_layers_of_the_transformer(base: Path, targets: list[str], layers: set[str]) -> None:
    assert layers_of(base, *targets) == layers


def test_all_linear_is_every_linear_layer_of_the_transformer_and_the_words_are_its_parts(base: Path) -> None:
    transformer = FlowModel.open(base).transformer
    linear = {name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    words = ("attention", "cross_attention", "feed_forward", "projections")
    parts = [planned_training(configured(base, target_modules=[word]), FlowModel.open(base))[1] for word in words]
    found = [name.removeprefix("transformer.") for plan in parts if plan is not None for name in plan.ranks]
    assert sorted(found) == sorted(linear) and layers_of(base, "all-linear") == layers_of(base, *words)
    assert set(FLOW_LAYERS.words.patterns) == {*words, "all-linear"}


def test_a_file_of_the_first_model_trains_what_exists_and_says_what_it_left_out(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rap.json").write_text(json.dumps(RAP))
    core = FlowModel.open(base)
    config = configured(base)
    values = {**config.to_dict(), "lora": None, "lora_config_path": str(tmp_path / "rap.json")}
    trainable = choose_trained(type(config).from_dict(values), core)
    layers = {entry.name.split(".lora_")[0].partition(".layers.")[2][2:] for entry in trainable.entries}
    assert layers == {f"{part}.{name}" for part in ("self_attn", "cross_attn") for name in PROJECTIONS}
    assert core.transformer.layers[0].self_attn.to_q.scaling["default"] == 32 / 256**0.5  # type: ignore[union-attr, index]
    for name in ("linear_q", "linear_k", "linear_v", "speaker_embedder"):
        assert f"left out of the adapter: {name!r}" in caplog.text
    with pytest.raises(ValueError, match="'speaker_embedder' has no layer in this model"):
        layers_of(base, "speaker_embedder", "linear_q")
    with pytest.raises(ValueError, match="'sepaker_embedder' matches no layer"):
        layers_of(base, "to_q", "sepaker_embedder")


@pytest.mark.parametrize("variant", [*VARIANTS, "nf4", "int8"])
def test_only_the_adapter_is_trained_and_the_base_known_by_its_transformer(
    base: Path, tmp_path: Path, variant: str
) -> None:
    options = VARIANTS.get(variant, {"quantization": variant})
    made = trained_adapter(base, tmp_path / "adapter", **options)
    names = {name for name, parameter in made.core.named_parameters() if parameter.requires_grad}
    assert names == {entry.name for entry in made.trainable.entries}
    assert all(name.startswith("transformer.") for name in names)
    assert all(".lora_" in name or ".modules_to_save." in name for name in names)
    recipe = read_adapter(made.folder).recipe
    assert recipe is not None and recipe.quantization == options.get("quantization")
    assert recipe.base_fingerprint == weights_fingerprint(FlowModel.open(base).transformer.state_dict())
    assert made.form.frozen_content == {"base_weights_sha256": recipe.base_fingerprint}
    _, plan = planned_training(configured(base, **options), FlowModel.open(base))
    counted = sum(parameter.numel() for parameter in made.trainable.parameters(made.core).values())
    assert plan is not None and counted == sum(_sizes(base, plan))


def _sizes(base: Path, plan: Any) -> Iterator[int]:
    core = FlowModel.open(base)
    shapes = {name: parameter.shape for name, parameter in core.named_parameters()}
    for name, rank in plan.ranks.items():
        outputs, *inputs = shapes[f"{name}.weight"]
        yield rank * (torch.Size(inputs).numel() + outputs) + (outputs if plan.has_magnitudes else 0)
    yield from (shapes[name].numel() for name in plan.saved)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_form_computes_what_was_trained(
    base: Path, trained: Callable[[str], Trained], variant: str, silent: None
) -> None:
    made = trained(variant)
    expected = velocity(made.core.transformer)
    assert difference(expected, velocity(FlowModel.open(base).transformer)) > 0.1
    files = {path.name for path in made.folder.iterdir()}
    assert (DIFFUSERS_FILE in files) == (variant != "whole_modules") and COMFYUI_FILE in files
    for adapter in (made.folder, *(made.folder / name for name in (DIFFUSERS_FILE, COMFYUI_FILE) if name in files)):
        assert difference(velocity(opened(base, adapter).transformer), expected) < 1e-5, adapter
    with_peft = PeftModel.from_pretrained(quiet_pipeline().transformer, made.folder)
    assert difference(velocity(with_peft), expected) < 1e-5
    if DIFFUSERS_FILE in files:
        pipeline = quiet_pipeline()
        pipeline.load_lora_weights(made.folder)
        assert difference(velocity(pipeline.transformer), expected) < 1e-5


def quiet_pipeline() -> Any:
    """The base in diffusers alone; torch warns of how the autoencoder is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tiny_pipeline()


@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_songs_of_diffusers_and_ours_are_the_same(base: Path, trained: Callable[[str], Trained], variant: str) -> None:
    made = trained(variant)
    theirs = tiny_pipeline()
    plain = song(theirs)
    theirs.load_lora_weights(made.folder)
    adapted = song(theirs)
    assert difference(adapted, plain) > 0.1
    assert difference(song(opened(base, made.folder).pipeline()), adapted) < 1e-5
    assert difference(song(made.core.eval().pipeline()), adapted) < 1e-5
    assert torch.equal(song(opened(base, made.folder, 0).pipeline()), song(FlowModel.open(base).pipeline()))


def song(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        audio: Tensor = pipeline(
            prompt="a wave", lyrics="la la", audio_duration=1.0, num_inference_steps=2, guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0), output_type="latent",
        ).audios  # fmt: skip
    return audio


def comfyui(weights: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's weights, changed by the rules of ComfyUI, written down again.

    A key of the model, `diffusion_model.decoder.NAME.weight` in the published names, takes what is under
    `base_model.model.NAME`; any key of the model takes what is under its own name. Alpha is divided by the rank.
    """
    published = {f"{published_name(name.rpartition('.')[0])}.{name.rpartition('.')[2]}": name for name in base}
    keys = {f"base_model.model.{name.removesuffix('.weight')}": own for name, own in published.items()}
    keys |= {f"diffusion_model.decoder.{name}": own for name, own in published.items()}
    changed, used = dict(base), set()
    for key, own in keys.items():
        if f"{key}.lora_B.weight" in weights:
            second, first, alpha = (weights[f"{key}.{part}"] for part in ("lora_B.weight", "lora_A.weight", "alpha"))
            used |= {f"{key}.lora_B.weight", f"{key}.lora_A.weight", f"{key}.alpha"}
            product = (second.flatten(1) @ first.flatten(1)).reshape(base[own].shape)
            changed[own] = base[own] + alpha.item() / first.shape[0] * product
            if f"{key}.dora_scale" in weights:
                used.add(f"{key}.dora_scale")
                norm = changed[own].flatten(1).norm(dim=1).reshape(-1, *(1,) * (changed[own].ndim - 1))
                factor = weights[f"{key}.dora_scale"] / norm
                assert factor.shape == norm.shape, "ComfyUI would spread it over other axes of a convolution"
                changed[own] = changed[own] * factor
        if f"{key}.set_weight" in weights:
            used.add(f"{key}.set_weight")
            changed[own] = weights[f"{key}.set_weight"]
    assert used == set(weights), f"ComfyUI would say that keys are not loaded: {set(weights) - used}"
    return changed


@pytest.mark.parametrize("variant", VARIANTS)
def test_by_the_rules_of_comfyui_the_weights_are_those_that_were_trained(
    base: Path, trained: Callable[[str], Trained], variant: str
) -> None:
    made = trained(variant)
    core = FlowModel.open(base)
    changed = comfyui(load_file(made.folder / COMFYUI_FILE), core.transformer.state_dict())
    core.transformer.load_state_dict(changed)
    assert difference(velocity(core.transformer), velocity(made.core.transformer)) < 1e-5


def published_folder(made: Trained, folder: Path, prefix: str) -> Path:
    """An adapter as the trainer of ACE-Step 1.5 writes it, with peft on its own names."""
    folder.mkdir()
    weights = load_file(made.folder / "adapter_model.safetensors")
    named = {_published(name, prefix): tensor for name, tensor in weights.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config = json.loads((made.folder / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config["rank_pattern"] = {published_name(name): rank for name, rank in config["rank_pattern"].items()}
    config["alpha_pattern"] = {published_name(name): alpha for name, alpha in config["alpha_pattern"].items()}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _published(name: str, prefix: str) -> str:
    module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
    return f"base_model.model.{prefix}{published_name(module)}.lora_{rest}"


def _as_kohya(name: str) -> str:
    module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
    flat = published_name(module).replace(".", "_")
    return f"lora_unet_decoder_{flat}." + ("lora_down.weight" if rest.startswith("A") else "lora_up.weight")


@pytest.mark.parametrize("prefix", ["", "decoder."])
@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_folders_with_published_names_are_read(
    base: Path, trained: Callable[[str], Trained], tmp_path: Path, variant: str, prefix: str
) -> None:
    made = trained(variant)
    folder = published_folder(made, tmp_path / "theirs", prefix)
    assert difference(velocity(opened(base, folder).transformer), velocity(made.core.transformer)) < 1e-5


def test_weight_files_of_other_programs_are_read(base: Path, trained: Callable[[str], Trained], tmp_path: Path) -> None:
    made = trained("lora")
    expected, plain = velocity(made.core.transformer), velocity(FlowModel.open(base).transformer)
    weights = load_file(made.folder / "adapter_model.safetensors")
    kohya = {_as_kohya(name): tensor for name, tensor in weights.items()}
    alphas = {f"{name.partition('.')[0]}.alpha": torch.tensor(8.0) for name in kohya}
    save_file({**kohya, **alphas}, tmp_path / "kohya.safetensors")
    doubled = {  # diffusers without metadata: the scale is 1, and here it was 2
        name.replace("base_model.model.", "transformer."): tensor * (2 if "lora_B" in name else 1)
        for name, tensor in weights.items()
    }
    (tmp_path / "downloaded").mkdir()
    save_file(doubled, tmp_path / "downloaded" / "my_style.safetensors")
    for place in (tmp_path / "kohya.safetensors", tmp_path / "downloaded"):
        assert difference(velocity(opened(base, place).transformer), expected) < 1e-5
    half = velocity(opened(base, tmp_path / "kohya.safetensors", 0.5).transformer)
    assert difference(half, plain) > 0.05 and difference(half, expected) > 0.05
    assert parse_choice(tmp_path / "kohya.safetensors").place == tmp_path


def damaged(weights: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The content of ComfyUI's file of an adapter with something wrong."""
    first = min(weights)
    if kind == "nothing matches":
        return {name.replace("layers.", "blocks."): tensor for name, tensor in weights.items()}
    if kind == "a part is unused":
        stranger = {
            name.replace("layers.0.", "layers.7."): tensor for name, tensor in weights.items() if "layers.0." in name
        }
        return {**weights, **stranger}
    if kind == "other shapes":
        return {name: tensor[:, :8] if name.endswith("lora_A.weight") else tensor for name, tensor in weights.items()}
    if kind == "one matrix":
        return {name: tensor for name, tensor in weights.items() if name != first.replace("alpha", "lora_A.weight")}
    if kind == "another kind":
        return {**weights, "lycoris_layers_0_mlp_up_proj.lokr_w1": torch.zeros(2)}
    if kind == "twice":
        again = {name.replace("base_model.model", "diffusion_model.decoder"): value for name, value in weights.items()}
        return {**weights, **again}
    if kind == "not a number":
        return {**weights, first: torch.tensor(torch.nan)}
    return {**weights, first: torch.tensor(-1.0)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing matches", r"(?s)modules that the model does not have: blocks\..*are called, for example, to_q"),
        ("a part is unused", r"modules that the model does not have: layers\.7"),
        ("other shapes", "do not agree"),
        ("one matrix", "layers without both matrices: layers.0.cross_attn.k_proj"),
        ("another kind", "unknown weights: .*lokr_w1; LoRA, rsLoRA and DoRA are read"),
        ("twice", "twice, under different names"),
        ("not a number", "NaN or infinity"),
        ("negative alpha", "alpha.*-1.* is not above 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_names_that_exist(
    base: Path, trained: Callable[[str], Trained], tmp_path: Path, kind: str, message: str
) -> None:
    weights = damaged(load_file(trained("lora").folder / COMFYUI_FILE), kind)
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match=message):
        opened(base, tmp_path / "theirs.safetensors")


def test_pickles_and_other_files_are_refused(base: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "adapter.pt")
    with pytest.raises(ValueError, match="pickles, which can run any program"):
        opened(base, tmp_path / "adapter.pt")
    (tmp_path / "folder").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "folder" / "model.safetensors")
    with pytest.raises(ValueError, match="has no adapter"):
        find_adapter(tmp_path / "folder")
    save_file({"x.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="does not say which base model it needs"):
        choose_model(tmp_path / "lora.safetensors")


def test_adapters_of_other_models_keep_their_names(base: Path) -> None:
    assert own_module("decoder.model.decoder.layers.0.self_attn.q_proj") is None
    assert own_module("lyrics_encoder.encoders.0.self_attn.linear_q") is None
    transformer = FlowModel.open(base).transformer
    kinds = (nn.Linear, nn.Conv1d)
    layers = {name for name, module in transformer.named_modules() if isinstance(module, kinds)}
    assert len(layers) == 30
    for name in layers:
        flat = f"lycoris_{published_name(name).replace('.', '_')}"
        assert {own_module(form) for form in (name, f"decoder.{published_name(name)}", flat)} == {name}


def test_a_step_is_that_of_peft_by_hand(base: Path) -> None:
    core = FlowModel.open(base)
    trainable = choose_trained(configured(base, target_modules=["attention", "feed_forward"]), core)
    names = r".*self_attn\.(to_q|to_k|to_v|to_out\.0)|.*mlp\..*"
    theirs = FlowModel.open(base).transformer
    by_hand = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=8, target_modules=names))  # type: ignore[arg-type]
    own = trainable.parameters(core)
    matching = {name: by_hand.get_parameter(name.replace("transformer.", "base_model.model.", 1)) for name in own}
    generator = torch.Generator().manual_seed(0)
    for name, parameter in own.items():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        matching[name].data = parameter.data.clone()
    for transformer, parameters in ((core.transformer, own), (by_hand, matching)):
        optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
        for _ in range(3):
            loss = _loss(transformer)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, parameter in own.items():
        assert difference(parameter, matching[name]) < 1e-6, name
    assert difference(velocity(core.transformer), velocity(by_hand)) < 1e-6


def _loss(transformer: nn.Module) -> Tensor:
    with torch.enable_grad():
        return velocity.__wrapped__(transformer).square().mean()  # type: ignore[attr-defined, no-any-return]


def test_merged_it_computes_the_same_and_diffusers_opens_it(
    base: Path, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    from diffusers import AceStepPipeline

    for variant in ("lora", "dora", "whole_modules"):
        made = trained(variant)
        found = export_merged(choose_model(base, [made.folder]), tmp_path / variant)
        assert found.relative < 1e-5 and found.quantized is None
        merged = AceStepPipeline.from_pretrained(tmp_path / variant)
        assert difference(velocity(merged.transformer), velocity(made.core.transformer)) < 1e-5
        assert (tmp_path / variant / "file_hashes.json").is_file()
        with pytest.raises(ValueError, match="another base model"):
            opened(tmp_path / variant, made.folder)
        with pytest.raises(ValueError, match="as a model and as an adapter; for a strength of it, name its base"):
            choose_model(made.folder, [f"{made.folder}:0.7"])


def test_a_base_in_4_bits_is_merged_in_the_precision_of_its_files(base: Path, tmp_path: Path) -> None:
    tiny_pipeline().to(dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    made = trained_adapter(tmp_path / "base", tmp_path / "adapter", quantization="nf4")
    found = export_merged(choose_model(tmp_path / "base", [made.folder]), tmp_path / "merged")
    assert found.quantized is not None and 0.01 < found.quantized < 0.5
    assert "rounding of the quantization" in str(found)
    weights = load_file(tmp_path / "merged" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    whole = opened(tmp_path / "base", made.folder)
    merged = FlowModel.open(tmp_path / "merged")
    assert 0 < difference(velocity(merged.transformer), velocity(whole.transformer)) < 0.1


def test_exported_it_holds_every_form_also_from_elsewhere(
    base: Path, trained: Callable[[str], Trained], tmp_path: Path, silent: None
) -> None:
    made = trained("rslora")
    expected = velocity(made.core.transformer)
    theirs = published_folder(made, tmp_path / "theirs", "decoder.")
    for number, source in enumerate((made.folder, theirs, made.folder / COMFYUI_FILE)):
        out = tmp_path / str(number)
        recipe = export_adapter(find_adapter(source), out, base_model="account/base")
        assert (recipe is None) == (source != made.folder)
        names = {"adapter_config.json", "adapter_model.safetensors", DIFFUSERS_FILE, COMFYUI_FILE, "file_hashes.json"}
        assert {path.name for path in out.iterdir()} == names
        pipeline = quiet_pipeline()
        pipeline.load_lora_weights(out)
        assert difference(velocity(pipeline.transformer), expected) < 1e-5
        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "account/base"


def test_without_its_adapter_a_model_is_the_base(base: Path, trained: Callable[[str], Trained]) -> None:
    made = trained("whole_modules")
    core, attached = open_attached(ModelChoice(base, (parse_choice(made.folder),)))
    with attached.without():
        assert torch.equal(velocity(core.get_submodule("transformer")), velocity(FlowModel.open(base).transformer))
    assert difference(velocity(core.get_submodule("transformer")), velocity(made.core.transformer)) < 1e-5


def test_a_damaged_form_of_another_program_is_refused(
    base: Path, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    made = trained_adapter(base, tmp_path / "adapter")
    path = made.folder / DIFFUSERS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="hash does not fit"):
        opened(base, path)
