import foolbox
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import TinyTen
from utils.attack import Attack
from utils.batches import as_images
from utils.losses import AUXILIARY_WEIGHT
from utils.measuring import evaluate, reestimate_batch_norm
from utils.stages.flags import intensity

EPSILON = 16 / 255


@pytest.fixture(scope="module", params=["Adversarial", "TinyTen"])
def images(request, load_bars):
    """Test images that are seen as pixels in [0, 1], and normalized ones."""
    return load_bars(transform=request.param).train


@pytest.fixture(scope="module")
def network(images):
    torch.manual_seed(0)
    model = TinyTen(4)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        for x, labels in images.augmented(32, generator):
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    reestimate_batch_norm(model, images, batch_size=160)
    return model


def draws():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_attacked_images_stay_in_the_ball_and_in_range(images, network, steps):
    x, labels = next(images.batches(160))
    attacked = Attack(EPSILON, 0.05, steps)(network, x, labels, images, draws())
    pixels = images.to_pixels(attacked)
    assert (pixels - images.to_pixels(x)).abs().max() <= EPSILON + 1e-6
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert not torch.equal(attacked, x)


def test_an_empty_ball_is_the_clean_image(images, network):
    x, labels = next(images.batches(160))
    assert torch.equal(Attack(0.0, 0.01, 5)(network, x, labels, images, draws()), x)
    clean = evaluate(network, images, batch_size=64)
    assert evaluate(network, images, batch_size=64, attack=Attack(0.0, 0.01, 5)) == clean


def test_loss_grows_with_the_number_of_steps(images, network):
    losses = [
        evaluate(network, images, batch_size=64, attack=Attack(EPSILON, EPSILON / 4, n))[0] for n in (0, 1, 2, 5, 10)
    ]
    assert losses == sorted(losses)
    assert losses[-1] > 1.2 * evaluate(network, images, batch_size=64)[0]


def test_parameters_get_no_gradients(images, network):
    x, labels = next(images.batches(16))
    Attack(EPSILON, 0.01, 2)(network, x, labels, images, draws())
    assert all(parameter.grad is None for parameter in network.parameters())


class ThreeHeads(nn.Module):
    """Logits of a linear layer; in training mode those of two others too, as GoogLeNet gives them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.heads = nn.ModuleList(nn.Linear(3, 4) for _ in range(3))
        with torch.no_grad():
            for head in self.heads[1:]:
                head.weight.mul_(10)

    def forward(self, x):
        x = x.mean((2, 3))
        return tuple(head(x) for head in self.heads) if self.training else self.heads[0](x)


@pytest.mark.parametrize("training", [True, False])
def test_the_attack_is_on_the_loss_of_the_mode_that_the_network_is_in(images, training):
    """In training mode that has the auxiliary classifiers' losses in it, and where they disagree they decide."""
    network = ThreeHeads().train(training)
    x, labels = next(images.batches(160))
    start = images.to_pixels(Attack(EPSILON, 0.01, 0)(network, x, labels, images, draws())).requires_grad_()
    losses = [F.cross_entropy(head(images.normalize(start).mean((2, 3))), labels) for head in network.heads]
    main = torch.autograd.grad(losses[0], start, retain_graph=True)[0]
    whole = torch.autograd.grad(losses[0] + AUXILIARY_WEIGHT * (losses[1] + losses[2]), start)[0]
    assert 0.01 < (main.sign() != whole.sign()).double().mean() < 0.9
    pixels = images.to_pixels(x)
    step = start + 0.01 * (whole if training else main).sign()
    expected = step.clamp(pixels - EPSILON, pixels + EPSILON).clamp(0, 1)
    attacked = images.to_pixels(Attack(EPSILON, 0.01, 1)(network, x, labels, images, draws()))
    torch.testing.assert_close(attacked, expected.detach(), atol=1e-5, rtol=0)


def test_reestimation_counts_only_the_attacked_images(images, network):
    """With no step and no ball the attack leaves images, and so statistics, as they are."""
    reestimate_batch_norm(network, images, batch_size=64)
    clean = {name: buffer.clone() for name, buffer in network.named_buffers() if "num" not in name}
    reestimate_batch_norm(network, images, batch_size=64, attack=Attack(1e-9, 1e-10, 3))
    for name, buffer in clean.items():
        torch.testing.assert_close(dict(network.named_buffers())[name], buffer, rtol=1e-3, atol=1e-4)


def test_agrees_with_an_independent_library(images, network):
    """The same budget leaves the same accuracy, to a point, over all images and three random starts."""
    network.eval()
    x = images.to_pixels(torch.cat([x for x, _ in images.batches(160)]))
    mean, std = (0.0, 1.0) if images.mean is None else (images.mean.flatten(), images.std.flatten())
    theirs = foolbox.PyTorchModel(
        network, bounds=(0, 1), preprocessing=None if images.mean is None else {"mean": mean, "std": std, "axis": -3}
    )
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=EPSILON / 8, steps=10, random_start=True)
    accuracies = {"ours": [], "theirs": []}
    for seed in range(3):
        torch.manual_seed(seed)
        _, _, fooled = pgd(theirs, x, images.labels, epsilons=EPSILON)
        accuracies["theirs"].append(100 - 100 * fooled.double().mean().item())
        ours = Attack(EPSILON, EPSILON / 8, 10)(network, images.normalize(x), images.labels, images, draws())
        accuracies["ours"].append(100 * (network(ours).argmax(1) == images.labels).double().mean().item())
    ours, theirs = (sum(values) / 3 for values in accuracies.values())
    assert abs(ours - theirs) <= 1
    assert 5 < ours < 90  # so that agreeing means something


@pytest.mark.parametrize("text, value", [("8/255", 8 / 255), ("0.03", 0.03), ("0", 0.0)])
def test_intensities(text, value):
    assert intensity(text) == pytest.approx(value)


@pytest.mark.parametrize("mean, std", [((0.5,), (0.25,)), ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))])
def test_an_attack_on_normalized_tensors_needs_their_moments(mean, std):
    """With them it is the one on pixels; without, pixels would be cut off at 0 and 1."""
    pixels, labels = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    m, s = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    of_pixels = lambda x: network((x - m) / s)  # noqa: E731
    attack = Attack(0.03, 0.01, 4)
    images = as_images((pixels, labels), "cpu")
    expected = (attack(of_pixels, pixels, labels, images, torch.Generator().manual_seed(1)) - m) / s
    x = (pixels - m) / s
    with_moments = Attack(0.03, 0.01, 4, mean, std)
    found = with_moments(network, x, labels, images, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, expected)
    for source in ((x, labels), torch.utils.data.DataLoader(list(zip(x, labels, strict=True)), 4)):
        with pytest.raises(ValueError, match=r"an attack is on pixels in \[0, 1\]"):
            evaluate(network, source, attack=attack)
