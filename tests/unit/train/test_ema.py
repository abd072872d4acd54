"""The moving average: its values, its swap, and what it leaves alone."""

import pytest
import torch
from torch import nn

from songgen.train.optimization.ema import MovingAverage


def test_the_average_follows_its_formula_and_warms_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = MovingAverage(dict(model.named_parameters()), decay=0.9)
    expected = 0.0
    for updates in range(1, 100):
        with torch.no_grad():
            model.weight.fill_(float(updates))
        average.update(updates)
        decay = min(0.9, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * updates
    assert average.averages["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_the_swap_is_undone_also_after_an_error() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(dict(model.named_parameters()), decay=0.5)
    trained = model.weight.detach().clone() + 1
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(RuntimeError), average.applied():
        torch.testing.assert_close(model.weight.detach(), trained - 1)
        raise RuntimeError
    assert torch.equal(model.weight.detach(), trained)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_outside_of_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="ema_decay"):
        MovingAverage({}, decay)
