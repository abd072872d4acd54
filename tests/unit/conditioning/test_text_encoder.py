import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from songgen.conditioning import FeatureCache, TextEncoder, load_text_encoder

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder.small(40, d_model=16, num_heads=2, seed=3)


def test_shapes_and_padding(encoder: TextEncoder) -> None:
    states = encoder.encode(IDS, MASK)
    assert states.shape == (2, 4, 16) == (2, 4, encoder.hidden_size) and encoder.vocab_size == 40
    assert not states[1, 2:].any() and states[0].abs().min(dim=-1).values.max() > 0
    torch.testing.assert_close(states[1:, :2], encoder.encode(IDS[1:, :2]))


def test_a_row_without_tokens_is_zero_and_finite(encoder: TextEncoder) -> None:
    states = encoder.encode(IDS, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    assert states.isfinite().all() and not states[1].any()


def test_ids_of_another_tokenizer_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"token 40, and the text encoder has 40 tokens: the caption tokenizer"):
        encoder.encode(torch.tensor([[5, 40]]))


def test_weights_that_are_not_finite_are_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    name = sorted(tensors)[0]
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"hold NaN or infinity in 1 tensors, such as {name}"):
        load_text_encoder({"path": str(tmp_path)})


def test_frozen_whatever_the_owner_does(encoder: TextEncoder) -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text_encoder = encoder
            self.own = nn.Linear(2, 2)

    owner = Owner().train()
    assert set(owner.state_dict()) == {"own.weight", "own.bias"}
    first, second = (encoder.encode(IDS, MASK) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    first.add_(owner.own(torch.ones(2)).sum())  # no inference tensor: it may take part in training


def test_autocast_of_the_caller_changes_nothing(encoder: TextEncoder) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder.encode(IDS, MASK)
    assert torch.equal(inside, encoder.encode(IDS, MASK))


def test_seeds_decide_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    fingerprints = [TextEncoder.small(40, d_model=16, seed=seed).fingerprint for seed in (1, 1, 2)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert torch.equal(before, torch.get_rng_state())


def test_saved_and_opened(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "text_encoder")
    with safe_open(tmp_path / "text_encoder" / "model.safetensors", framework="pt") as opened:
        assert "encoder.embed_tokens.weight" not in opened.keys()  # noqa: SIM118 - no mapping
    before = torch.get_rng_state()
    opened_again = load_text_encoder({"path": "text_encoder"}, base_folder=tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert opened_again.fingerprint == encoder.fingerprint and opened_again.spec == {"path": "text_encoder"}
    assert torch.equal(opened_again.encode(IDS, MASK), encoder.encode(IDS, MASK))
    assert load_text_encoder(str(tmp_path / "text_encoder")).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("name", ["../secret/model.safetensors", "/secret/model.safetensors", 7])
def test_an_index_that_leads_out_of_the_folder_is_refused(encoder: TextEncoder, tmp_path: Path, name: object) -> None:
    """Even if the weights there would fit."""
    encoder.save(tmp_path / "secret")
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    shutil.copy(tmp_path / "secret" / "config.json", folder)
    listed = str(tmp_path) + name if isinstance(name, str) and name.startswith("/") else name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": listed}}))
    with pytest.raises(ValueError, match="not weights of this folder"):
        load_text_encoder(str(folder))


def test_weights_in_several_files(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    files = {name: f"model-0000{number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in set(files.values()):
        save_file({name: tensor for name, tensor in weights.items() if files[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert load_text_encoder(str(tmp_path)).fingerprint == encoder.fingerprint
    index.write_text(json.dumps({"weight_map": list(files)}))
    with pytest.raises(ValueError, match="damaged"):
        load_text_encoder(str(tmp_path))


def test_precision(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    half = load_text_encoder(str(tmp_path), dtype=torch.bfloat16)
    assert half.encode(IDS, MASK).dtype == half.dtype == torch.bfloat16
    assert half.fingerprint != encoder.fingerprint
    torch.testing.assert_close(half.encode(IDS, MASK).float(), encoder.encode(IDS, MASK), atol=0.3, rtol=0.1)


def test_a_configuration_and_tensors_as_in_a_published_folder(encoder: TextEncoder) -> None:
    """Such a folder names a precision and holds fields that the library has dropped."""
    config = encoder._model.config.to_dict() | {"torch_dtype": "float16", "_name_or_path": "", "pruned_heads": {}}
    tensors = encoder._tensors() | {"decoder.final_layer_norm.weight": torch.zeros(16)}
    opened = TextEncoder.from_state_dict(config, tensors)
    assert opened.dtype == torch.float32 and opened.spec == {}
    assert opened._model.shared.weight is opened._model.encoder.embed_tokens.weight, "held once, also on a device"
    assert torch.equal(opened.encode(IDS, MASK), encoder.encode(IDS, MASK))


def test_weights_that_do_not_fit_are_all_named(encoder: TextEncoder) -> None:
    tensors = dict(encoder._tensors())
    del tensors["encoder.final_layer_norm.weight"]
    tensors["shared.weight"] = torch.zeros(3, 16)
    with pytest.raises(ValueError, match=r"(?s)shared.*shape \(3, 16\).*final_layer_norm.*missing"):
        TextEncoder.from_state_dict(encoder._model.config.to_dict(), tensors)


def test_the_cache_gives_what_is_computed_once(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoder.encode(IDS, MASK)
    computed: list[int] = []
    compute = encoder._compute

    def count(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        computed.append(len(ids))
        return compute(ids, mask)

    monkeypatch.setattr(encoder, "_compute", count)
    encoder.cache = FeatureCache(10**6)
    torch.testing.assert_close(encoder.encode(IDS[:1], MASK[:1]), expected[:1])
    torch.testing.assert_close(encoder.encode(IDS, MASK), expected)
    longer = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    longer_mask = torch.cat([MASK, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(encoder.encode(longer, longer_mask)[:, :4], expected)
    assert computed == [1, 1], "the padding is no part of the content"
