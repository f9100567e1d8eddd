import pytest
import torch
from torch.nn import functional as F

from models import GoogLeNet
from utils import training


def test_learning_rate_is_the_published_schedule():
    rates = [training.learning_rate(epoch, 0.1, 20, 0.9996) for epoch in (0, 1, 19, 20, 60)]
    expected = [0.1, 0.1 * 0.9996, 0.1 * 0.9996**19, 0.05 * 0.9996**20, 0.0125 * 0.9996**60]
    assert rates == pytest.approx(expected)


def test_robust_learning_rate_is_the_published_schedule():
    rates = [training.robust_learning_rate(epoch, 0.1, 100) for epoch in (0, 50, 70, 90, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.1 * (1 + 0.01) / 2, 0.001, 0.001])


def test_objective_adds_the_auxiliary_losses():
    model, labels = GoogLeNet(4), torch.tensor([0, 3])
    main, aux1, aux2 = output = model.train()(torch.randn(2, 3, 16, 16))
    losses = [F.cross_entropy(logits, labels).item() for logits in (main, aux1, aux2)]
    assert training.objective(output, labels, 2).item() == pytest.approx(losses[0] + 0.3 * (losses[1] + losses[2]))
    assert training.objective(main, labels, 2).item() == pytest.approx(losses[0])
