"""Heads, embeddings and projections are used through their `forward`: adapters, hooks and quantized layers work."""

from collections.abc import Callable

import pytest
import torch
from model_fakes import batch, tiny
from torch import Tensor, nn
from torch.nn import functional as F

from songgen.layout import LAYOUT_NAMES
from songgen.models import SongGenForConditionalGeneration
from songgen.models.streams import Heads, StreamEmbeddings

RANK = 2


class Adapter(nn.Module):
    """A layer and a low-rank addition: base(x) + B(A(x))."""

    def __init__(self, base: nn.Embedding | nn.Linear) -> None:
        super().__init__()
        self.base = base
        width_in, width_out = base.weight.shape[::-1]
        if isinstance(base, nn.Embedding):
            self.down: nn.Module = nn.Embedding(width_out, RANK)
            self.up = nn.Linear(RANK, width_in, bias=False)
        else:
            self.down, self.up = nn.Linear(width_in, RANK, bias=False), nn.Linear(RANK, width_out, bias=False)

    def forward(self, given: Tensor) -> Tensor:
        return self.base(given) + self.up(self.down(given))

    def merged(self) -> nn.Embedding | nn.Linear:
        """The layer with the addition in its weight."""
        if isinstance(self.base, nn.Embedding):
            added = self.down.weight @ self.up.weight.T
        else:
            added = self.up.weight @ self.down.weight
        with torch.no_grad():
            self.base.weight += added
        return self.base


def parents(model: SongGenForConditionalGeneration) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where the layers are that get an adapter, as parents and the names of their children."""
    decoder = model.decoder
    return {
        "heads": [(decoder.lm_heads, str(head)) for head in range(len(decoder.lm_heads))],
        "one head of many": [(decoder.lm_heads, "1")],
        "embeddings": [(decoder.model.decoder.embed_tokens, str(head)) for head in range(len(decoder.lm_heads))],
        "one embedding of many": [(decoder.model.decoder.embed_tokens, "1")],
        "projections": [(model, "enc_to_dec_proj"), (model, "audio_mert_to_dec_proj"), (model, "lyrics_to_dec_proj")],
        "lyrics embedding": [(model, "embed_prompts")],
    }


PLACES = list(parents(tiny()))


def adapt(model: SongGenForConditionalGeneration, place: str) -> None:
    torch.manual_seed(3)
    for parent, name in parents(model)[place]:
        setattr(parent, name, Adapter(getattr(parent, name)))


def merge(model: SongGenForConditionalGeneration, place: str) -> None:
    for parent, name in parents(model)[place]:
        setattr(parent, name, getattr(parent, name).merged())


def stepwise(model: SongGenForConditionalGeneration, inputs: dict[str, Tensor]) -> Tensor:
    """Logits by cached steps, B x H x S x V."""
    labels = model.layout.labels(inputs["codes"], inputs["frames"], model.vocabulary)
    steps = model.layout.inputs(labels, model.vocabulary)
    conditions = {key: value for key, value in inputs.items() if key.startswith(("text", "prompt", "voice"))}
    cache = model.decoder.new_cache(model.encode_conditions(**conditions), steps.shape[-1])
    return torch.stack([model.decoder.step(steps[..., s : s + 1], cache) for s in range(steps.shape[-1])], dim=2)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("track_pattern", LAYOUT_NAMES)
def test_an_adapter_counts_in_training_evaluation_and_generation(track_pattern: str, place: str) -> None:
    """The model with adapters computes what the model does whose weights hold the additions."""
    model = tiny(track_pattern)
    inputs = batch(model)
    with torch.no_grad():
        untouched = model(**inputs).logits
    adapt(model, place)
    results = []
    for _ in range(2):
        trained = model.train()(**inputs, return_logits=False)
        trained.loss.backward()
        model.eval()
        with torch.no_grad():
            evaluated = model(**inputs)
            cached = stepwise(model, inputs)
        gradient = model.decoder.model.decoder.layers[0].fc1.weight.grad.clone()
        model.zero_grad()
        results.append((trained.loss.detach(), gradient, evaluated.loss, evaluated.logits, cached))
        if len(results) == 1:
            merge(model, place)
    for adapted, merged in zip(*results, strict=True):
        torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(results[0][3], untouched, atol=1e-3), "the adapter changes something"
    torch.testing.assert_close(results[0][4], results[0][3], atol=1e-4, rtol=1e-4)


def test_adapters_of_heads_and_embeddings_get_gradients() -> None:
    model = tiny().train()
    for place in ("heads", "embeddings", "projections"):
        adapt(model, place)
    model(**batch(model), return_logits=False).loss.backward()
    without = [name for name, entry in model.named_parameters() if entry.grad is None]
    assert all(name.startswith("decoder.vocal_lm_heads") for name in without)


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is stored in bytes, as 4-bit layers store theirs."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        low, high = base.weight.detach().aminmax()
        self.scale, self.zero = float((high - low) / 255), float(low)
        stored = ((base.weight.detach() - low) / self.scale).round().to(torch.uint8)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.bias = base.bias

    def forward(self, states: Tensor) -> Tensor:
        assert states.is_floating_point(), "features were cast to the type of the stored weight"
        return F.linear(states, self.weight.to(states.dtype) * self.scale + self.zero, self.bias)


def test_a_layer_whose_weight_is_stored_in_bytes_reads_conditions() -> None:
    model = tiny()
    inputs = {name: value for name, value in batch(model).items() if name.startswith(("text", "prompt", "voice"))}
    with torch.no_grad():
        exact = model.encode_conditions(**inputs)
        for name in ("enc_to_dec_proj", "audio_mert_to_dec_proj", "lyrics_to_dec_proj"):
            setattr(model, name, QuantizedLinear(getattr(model, name)))
        aggregation = model.mert_layer_agg
        model.mert_layer_agg = nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 1, 1))
        model.mert_layer_agg[1].load_state_dict(aggregation.state_dict())
        stored = model.encode_conditions(**inputs)
    assert stored.memory.dtype == exact.memory.dtype
    torch.testing.assert_close(stored.memory, exact.memory, atol=0.1, rtol=0.1)
    quantized = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert {module.weight.dtype for module in quantized} == {torch.uint8} and len(quantized) == 3


def test_quantized_heads_train_the_rest() -> None:
    model = tiny().train()
    for head in range(len(model.decoder.lm_heads)):
        model.decoder.lm_heads[head] = QuantizedLinear(model.decoder.lm_heads[head])
    model(**batch(model), return_logits=False).loss.backward()
    assert model.decoder.model.decoder.layers[0].fc1.weight.grad.abs().sum() > 0


def joined_by_hand(model: SongGenForConditionalGeneration, states: Tensor) -> Tensor:
    """Logits as they were computed before heads were a module of their own."""
    matrix = torch.cat([module.weight for module in model.decoder.lm_heads])
    return F.linear(states, matrix).unflatten(-1, (len(model.decoder.lm_heads), -1)).transpose(1, 2)


@pytest.mark.parametrize("track_pattern", LAYOUT_NAMES)
def test_plain_layers_are_fused_with_the_same_bits(track_pattern: str) -> None:
    model = tiny(track_pattern)
    heads, embeddings = model.decoder.lm_heads, model.decoder.model.decoder.embed_tokens
    ids = torch.randint(0, 84, (2, len(heads), 7), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(heads)) * 84
    bags = (ids + rows[:, None]).transpose(1, 2)
    table = torch.cat([module.weight for module in embeddings])
    summed = F.embedding_bag(bags.flatten(0, 1), table, mode="sum").unflatten(0, bags.shape[:2])
    assert torch.equal(embeddings(ids), summed)
    assert torch.equal(heads(summed), joined_by_hand(model, summed))
    assert torch.equal(
        heads.joined()(summed[:, 0]), F.linear(summed[:, 0], torch.cat(heads.matrices())).view(2, -1, 84)
    )
    assert list(model.state_dict()) == list(tiny(track_pattern).state_dict())
    assert "decoder.lm_heads.0.weight" in model.state_dict()


def hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda *arguments: 2 * arguments[-1])


def replaced_forward(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda given: 2 * forward(given)  # as accelerate's hooks do


def parametrize(module: nn.Module) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    nn.utils.parametrize.register_parametrization(module, "weight", Doubled())


@pytest.mark.parametrize("change", [hook, replaced_forward, parametrize])
def test_whatever_changes_the_call_of_a_layer_counts(change: Callable[[nn.Module], None]) -> None:
    heads = Heads(nn.Linear(4, 5, bias=False) for _ in range(3))
    embeddings = StreamEmbeddings(nn.Embedding(6, 4) for _ in range(3))
    ids, states = torch.randint(0, 6, (2, 3, 7)), torch.randn(2, 7, 4)
    before = embeddings(ids), heads(states)
    for layers in (heads, embeddings):
        for layer in layers:
            change(layer)
    torch.testing.assert_close(embeddings(ids), 2 * before[0])
    torch.testing.assert_close(heads(states), 2 * before[1])
    assert heads.matrices() is None, "the fused loss would leave the change out"


def test_layers_with_more_than_a_matrix_are_not_fused() -> None:
    heads = Heads(nn.Linear(4, 5) for _ in range(2))
    states = torch.randn(2, 7, 4)
    assert heads.matrices() is None
    torch.testing.assert_close(heads(states)[:, 1], heads[1](states))
    embeddings = StreamEmbeddings(nn.Embedding(6, 4, max_norm=0.5) for _ in range(2))
    ids = torch.randint(0, 6, (2, 2, 7))
    torch.testing.assert_close(embeddings(ids), embeddings[0](ids[:, 0]) + embeddings[1](ids[:, 1]))
    hooked = Heads(nn.Linear(4, 5, bias=False) for _ in range(2))
    hooked.register_forward_hook(lambda *_: None)
    assert hooked.matrices() is None, "a hook on all heads is not passed over either"
