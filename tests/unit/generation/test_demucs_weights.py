"""Demucs networks are read from safetensors, and a file cannot name what is run."""

import json
from fractions import Fraction

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_demucs import save_demucs

htdemucs = pytest.importorskip("demucs.htdemucs")

from songgen.generation.demucs_weights import load_demucs  # noqa: E402
from songgen.generation.separation import VocalSeparator  # noqa: E402
from songgen.runtime.tensor_files import opened_tensors  # noqa: E402

SMALL = {"channels": 16, "depth": 2, "t_layers": 1, "t_heads": 2, "nfft": 512, "samplerate": 8000}


def small_network(seed: int = 0, sources: tuple[str, ...] = ("drums", "vocals")):
    """A real network, untrained."""
    torch.manual_seed(seed)
    return htdemucs.HTDemucs(list(sources), segment=Fraction(3, 2), **SMALL)


@pytest.fixture
def folder(tmp_path):
    save_demucs(small_network(), tmp_path / "model", "small")
    return tmp_path / "model"


def change_metadata(folder, **changes):
    """Write the network's file again with other metadata (None leaves an entry out)."""
    path = folder / "small-0.safetensors"
    with opened_tensors(path) as file:
        metadata = {**file.metadata(), **changes}
    save_file(load_file(str(path)), str(path), {key: value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize("file", ["", "small-0.safetensors"])
def test_a_saved_network_comes_back_with_its_weights_and_arguments(folder, file):
    model = load_demucs(str(folder / file))
    network, original = model.models[0], small_network()
    assert network.segment == Fraction(3, 2) and model.samplerate == 8000 and not model.training
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), original.parameters(), strict=True))


def test_the_library_reads_the_same_file(folder):
    from demucs.hf import load_safetensors_model

    theirs = load_safetensors_model(folder / "small-0.safetensors")
    ours = load_demucs(str(folder)).models[0]
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_a_class_that_is_no_network_is_never_called(folder, tmp_path):
    target = tmp_path / "made_by_the_file"
    change_metadata(folder, klass="os.mkdir", args=json.dumps([str(target)]), kwargs="{}")
    with pytest.raises(ValueError, match="os.mkdir"):
        load_demucs(str(folder))
    assert not target.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"klass": None}, "not a Demucs network"),
        ({"args": "["}, "not a Demucs network"),
        ({"structure": "{}"}, "quantized"),
        ({"args": '[["drums"]]'}, "does not fit"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(folder, changes, message):
    change_metadata(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_demucs(str(folder))


@pytest.mark.parametrize("listing", ["models: ['../outside']", "models: []", "[1, 2", "models: {a: b}"])
def test_a_listing_that_leads_elsewhere_or_nowhere_is_refused(folder, listing):
    (folder / "small.yaml").write_text(listing)
    with pytest.raises(ValueError, match="small.yaml"):
        load_demucs(str(folder))


def test_pickles_are_refused_by_name(tmp_path):
    (tmp_path / "955717e8.th").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle"):
        load_demucs(str(tmp_path / "955717e8.th"))


def test_published_names_lead_to_the_published_repositories(folder, monkeypatch):
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return str(folder / ("small.yaml" if file.endswith(".yaml") else file))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    load_demucs("htdemucs", "abc")
    load_demucs("someone/htdemucs_ft")
    load_demucs("mdx_extra")
    assert asked[:2] == [
        ("adefossez/HTDemucs", "htdemucs.yaml", "abc"),
        ("adefossez/HTDemucs", "small-0.safetensors", "abc"),
    ]
    assert asked[2] == ("someone/HTDemucs-ft", "htdemucs_ft.yaml", None)
    assert asked[4] == ("adefossez/Demucs-mdx_extra", "mdx_extra.yaml", None)


def test_networks_without_a_say_in_the_vocals_are_left_out():
    from demucs.apply import BagOfModels

    drums, vocals = small_network(1), small_network(2)
    bag = BagOfModels([drums, vocals], [[1.0, 0.0], [0.0, 1.0]])
    kept = VocalSeparator(bag.eval()).model
    assert list(kept.models) == [vocals] and kept.weights == [[1.0, 1.0]]
