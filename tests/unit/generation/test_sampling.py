import pytest
import torch

from songgen.generation.options import GenerationOptions
from songgen.generation.sampling import TokenSampler, allowed_logits, keep_top_k, keep_top_p

HEADS, CODES, VOCABULARY = 3, 10, 20
DEVICE = torch.device("cpu")


def sampler(seeds=(0,), **options):
    return TokenSampler(GenerationOptions(**options), CODES, HEADS, list(seeds), DEVICE)


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("special", [1e9, float("inf")])
def test_only_codes_can_be_drawn_whatever_the_logits_of_special_ids(do_sample, special):
    logits = torch.randn(4, HEADS, VOCABULARY)
    logits[..., CODES:] = special
    draw = sampler(seeds=range(4), do_sample=do_sample)
    for _ in range(20):
        assert draw(logits).max() < CODES


@pytest.mark.parametrize("do_sample", [True, False])
def test_the_end_is_drawn_where_it_is_due_and_nowhere_else(do_sample):
    logits = torch.randn(4, HEADS, VOCABULARY)
    logits[..., CODES] = 1e4
    logits[..., CODES + 1 :] = 1e9
    tokens = sampler(seeds=range(4), do_sample=do_sample)(logits, torch.tensor([False, True, False]))
    assert (tokens[:, 1] == CODES).all()
    assert tokens[:, [0, 2]].max() < CODES


def test_codes_of_minus_infinity_and_not_a_number_still_give_a_code():
    for value in (-torch.inf, torch.nan):
        logits = torch.full((1, HEADS, VOCABULARY), value)
        logits[..., CODES:] = 5.0
        for do_sample in (True, False):
            assert sampler(do_sample=do_sample, top_p=0.5)(logits, torch.zeros(HEADS, dtype=torch.bool)).max() < CODES


def test_half_precision_logits_are_drawn_in_float32():
    assert allowed_logits(torch.zeros(1, HEADS, VOCABULARY, dtype=torch.bfloat16), CODES, None).dtype == torch.float32


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 1, 4)
    draw = TokenSampler(GenerationOptions(top_k=0), 4, 1, [5], DEVICE)
    counts = torch.bincount(torch.stack([draw(logits).flatten() for _ in range(4000)]).flatten(), minlength=4)
    assert torch.allclose(counts / 4000, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03)


def test_temperature_sharpens_the_distribution():
    logits = torch.tensor([0.6, 0.4]).log().expand(1, 1, 2)
    draw = TokenSampler(GenerationOptions(temperature=0.1), 2, 1, [5], DEVICE)
    drawn = torch.stack([draw(logits).flatten() for _ in range(500)])
    assert (drawn == 0).float().mean() > 0.95


def test_top_k_and_top_p_keep_the_likeliest():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert keep_top_k(logits, 2).isfinite().tolist() == [[False, True, False, True]]
    assert keep_top_k(logits, 9).isfinite().all()
    assert keep_top_p(logits, 0.5).isfinite().tolist() == [[False, True, False, True]]
    assert keep_top_p(logits, 0.39).isfinite().tolist() == [[False, True, False, False]]
    assert keep_top_p(logits, 1e-9).isfinite().sum() == 1


def test_top_k_of_one_is_greedy():
    logits = torch.randn(2, HEADS, VOCABULARY)
    assert torch.equal(sampler((1, 2), top_k=1)(logits), sampler((1, 2), do_sample=False)(logits))


def test_a_sequence_draws_the_same_in_any_company():
    logits = torch.randn(30, 3, HEADS, VOCABULARY)
    together, alone = sampler((11, 22, 33)), sampler((22,))
    for step in logits:
        assert torch.equal(together(step)[1:2], alone(step[1:2]))


def test_sequences_with_other_seeds_draw_otherwise():
    logits = torch.zeros(2, HEADS, VOCABULARY)
    draw = sampler((1, 2))
    drawn = torch.stack([draw(logits) for _ in range(20)])
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
