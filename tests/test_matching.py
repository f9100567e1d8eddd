import itertools

import networks
import numpy as np
import pytest
import torch
from conftest import randomize
from scipy.optimize import linear_sum_assignment
from test_permutations import ALL, Unseen, model_and_images

from models import MODELS, builder
from utils.activations import count_shown
from utils.assignment import assigned_score
from utils.attack import Attack
from utils.matching import (
    ATTACK_SEED,
    METHODS,
    Moments,
    align,
    assign_groups,
    attacked,
    cross_correlations,
    cross_moments,
    each_by_itself,
    mean_correlations,
    mean_distances,
    unheard_apart,
)
from utils.permutations import compose, groups_in, inverse, permute
from utils.stages.files import load_array
from utils.stages.layout import Layout
from utils.stages.loading import load_alignment, load_endpoint
from utils.stages.matches import rows_from_permutations
from utils.symmetries import spec as symmetries_spec
from utils.symmetries.recording import samples
from utils.symmetries.spec import permutation_spec


def images(name, count=96):
    size = 8 if name == "Unseen" else 32
    return [torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("name", ALL)
def test_planted_permutation_comes_back(name):
    """B is a shuffled copy of A: alignment finds exactly the inverse shuffle, and aligned B is A again."""
    model, x = model_and_images(name)
    spec = permutation_spec(model, x)
    planted = spec.random(0)
    shuffled = Unseen() if name == "Unseen" else MODELS[name](5)
    shuffled.load_state_dict(permute(model.state_dict(), spec, planted))

    batches = images(name, 64)
    found = align(model, shuffled, spec, batches)
    for expected, permutation in zip(inverse(spec, planted), found, strict=True):
        np.testing.assert_array_equal(expected, permutation)
    matrices = cross_correlations(model, shuffled, spec, batches)
    np.testing.assert_allclose(mean_correlations(spec, matrices, found)[-1], 1, atol=1e-5)  # the logits

    aligned = permute(shuffled.state_dict(), spec, found)
    assert all(torch.equal(value, aligned[key]) for key, value in model.state_dict().items())
    expected = shuffled.eval()(x)
    shuffled.load_state_dict(aligned)
    assert (expected - shuffled(x)).abs().max() < 1e-4 * expected.abs().max()


IN_PRODUCTS = ("capsules", "products_in_blocks", "outer_product", "heads_share_a_map", "grouped_queries", "mixer")
IN_PRODUCTS += ("new_tokens_with_two_kinds_of_channels", "keys_times_values", "experts")
IN_PRODUCTS += ("distances_to_centers", "learned_query")


@pytest.mark.parametrize("method", ["corr", "weight"])
def test_groups_that_are_held_stay_and_planted_ones_beside_them_come_back(method):
    model, x = model_and_images("TinyTen")
    spec, held, shuffled = permutation_spec(model, x), [1, 4], MODELS["TinyTen"](5)
    planted = [same if n in held else spec.random(0)[n] for n, same in enumerate(spec.identity())]
    shuffled.load_state_dict(permute(model.state_dict(), spec, planted))
    found = align(model, shuffled, spec, images("TinyTen", 64), method=method, groups=held)
    assert same_orders(found, inverse(spec, planted))
    # Shuffled too, they stay where they are, and A's are not found
    shuffled.load_state_dict(permute(model.state_dict(), spec, spec.random(0)))
    found = align(model, shuffled, spec, images("TinyTen", 64), method=method, groups=held)
    assert all((found[n] == spec.identity()[n]).all() for n in held)


def same_orders(one, other):
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_groups_are_held_by_the_weights_that_they_move():
    model, x = model_and_images("TinyTen")
    spec = permutation_spec(model, x)
    entry = next(name for name, axes in spec.axes.items() if groups_in(axes[0]))
    (number,) = groups_in(spec.axes[entry][0])
    by_name, by_number = (
        align(model, randomize(MODELS["TinyTen"](5), 3), spec, images("TinyTen", 32), groups=groups)
        for groups in ([entry], {number, *(one for axis in spec.axes[entry] for one in groups_in(axis))})
    )
    assert same_orders(by_name, by_number) and (by_name[number] == np.arange(len(by_name[number]))).all()
    for groups in (["nothing"], [len(spec.groups)], [-1], [1.5]):
        with pytest.raises(ValueError, match="there is no group"):
            align(model, model, spec, groups=groups, method="weight")


@pytest.mark.parametrize("method", ["corr", "w2_post", "weight"])
@pytest.mark.parametrize("name", IN_PRODUCTS)
def test_units_that_are_shown_in_products_come_back(name, method):
    """Where each of two groups can be matched in some order of the other alone."""
    model, example = networks.build(name)
    spec = permutation_spec(model, *example, proof=False)
    randomize(model.eval())
    shuffled = networks.build(name)[0].eval()
    shuffled.load_state_dict(permute(model.state_dict(), spec, spec.random(2)))
    x = torch.randn(256, *example[0].shape[1:], generator=torch.Generator().manual_seed(1))
    aligned = permute(shuffled.state_dict(), spec, align(model, shuffled, spec, [x], method=method))
    assert all(torch.equal(value, aligned[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "means"), [("mixer", [(), (1,), ()]), ("outer_product", [(), ()])])
def test_units_in_too_many_products_are_compared_by_their_means(name, means, monkeypatch):
    """Means over units that other activations show; where these are all, the products are left out."""
    monkeypatch.setattr(symmetries_spec, "MAX_CHANNELS", 19)
    model, example = networks.build(name)
    spec = permutation_spec(model, *example, proof=False)
    assert [row.mean for row in spec.rows] == means
    test_units_that_are_shown_in_products_come_back(name, "corr")


def test_no_turn_makes_products_worse():
    """Whatever scores say: no group alone, nor what stands in its blocks with it, can be matched better."""
    model, example = networks.build("products_in_blocks")
    spec = permutation_spec(model, *example, proof=False)
    generator = np.random.default_rng(0)
    scores = [generator.standard_normal((row.channels, row.channels)) for row in spec.rows]
    found = assign_groups(spec, scores)
    best = assigned_score(spec, scores, found)
    assert best > max(assigned_score(spec, scores, spec.random(seed)) for seed in range(20))
    for number, group in enumerate(spec.groups):
        for block in np.ndindex(spec.blocks(number)):
            for i, j in itertools.combinations(range(group.size), 2):
                move = spec.identity()
                move[number][block][[i, j]] = j, i
                assert assigned_score(spec, scores, compose(spec, found, move)) <= best + 1e-9


def lively(model, x):
    """The model with batch-norm statistics of its own, so that hardly a channel is dead."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def stored_activations(model, rows, batches):
    """The definition: all activations of each row kept, as (samples, channels) in float64, taken by plain hooks."""
    kept = {}
    heads = [(module, module.training) for module in model.modules()]
    for module in model.modules():  # in evaluation, but with heads for training
        module.training = next(module.children(), None) is not None
    hooks = [
        model.get_submodule(row.tap.path).register_forward_hook(
            lambda module, inputs, output, label=row.label: kept.setdefault(label, []).append(output.detach().clone())
        )
        for row in rows
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    for module, training in heads:
        module.training = training
    result = []
    for row in rows:
        value = torch.cat(kept[row.label]).double()
        if value.dim() == 4:
            value = value.permute(0, 2, 3, 1).flatten(0, 2)
        result.append(value.numpy())
    return result


def z_scored(values):
    deviation = values.std(axis=0)
    return np.where(deviation > 0, (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1), 0)


@pytest.mark.long
@pytest.mark.parametrize("name", ["TinyTen", "ResNet32", "GoogLeNet"])
def test_equals_the_plain_definition(name):
    batches = [torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(3)) for count in (50, 33)]
    a, b = (lively(randomize(MODELS[name](5), seed), batches[0]) for seed in (1, 2))
    spec = permutation_spec(a)
    matrices = cross_correlations(a, b, spec, batches)
    expected = [
        z_scored(x).T @ z_scored(y) / len(x)
        for x, y in zip(
            stored_activations(a, spec.rows, batches), stored_activations(b, spec.rows, batches), strict=True
        )
    ]
    for matrix, plain in zip(matrices, expected, strict=False):
        np.testing.assert_allclose(matrix, plain, atol=2e-5)

    scores = dict.fromkeys(range(len(spec.groups)), 0)
    for row, plain in zip(spec.rows, expected, strict=True):
        for group in row.votes:
            scores[group] = scores[group] + plain
    for group, permutation in enumerate(assign_groups(spec, matrices)):
        score, best = scores[group], linear_sum_assignment(-scores[group])[1]
        places = np.arange(len(best))
        assert np.isclose(score[places, permutation].sum(), score[places, best].sum(), rtol=1e-6)
        if len(best) < 1024:  # 1,024 linear units and 83 images: many fire for one image only, and tie
            correlated = score[places, best] != 0  # how channels that never fire are matched, it does not say
            np.testing.assert_array_equal(permutation[correlated], best[correlated])


def show(moments, x, y):
    moments.show_a(x)
    moments.show_b(y)
    assert count_shown([moments])


@pytest.mark.parametrize("layout", ["samples", "channels first", "channels last"])
def test_a_large_mean_loses_nothing(layout):
    """Neither of correlations nor of products, whose best assignment has the least L2 distance; in whatever layout,
    and of more samples than are summed up at once."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 20_000, generator=generator) * 0.01 + 100
    y = x.flip(0) + 0.005 * torch.randn(6, 20_000, generator=generator)
    moments = Moments()
    for parts in zip(x.split(10_000, 1), y.split(10_000, 1), strict=True):
        maps = [part.view(6, 100, 10, 10).movedim(0, 1).contiguous() for part in parts]
        if layout == "channels last":
            maps = [each.contiguous(memory_format=torch.channels_last) for each in maps]
        show(
            moments, *([part.T for part in parts] if layout == "samples" else [samples(each, (1,)) for each in maps])
        )
    expected = np.corrcoef(x.double().numpy(), y.double().numpy())[:6, 6:]
    np.testing.assert_allclose(moments.correlation(), expected, atol=1e-6)
    np.testing.assert_allclose(moments.product(), (x.double() @ y.double().T / 20_000).numpy(), rtol=1e-6)


def test_a_dead_channel_correlates_with_nothing():
    x = torch.randn(3, 100)
    x[1] = 0.7
    moments = Moments()
    show(moments, x.T, x.T)
    correlation = moments.correlation()
    assert (correlation[1] == 0).all()
    np.testing.assert_allclose(np.diag(correlation)[[0, 2]], 1, atol=1e-6)


def test_pairs_of_dead_channels_do_not_count():
    spec = permutation_spec(MODELS["TinyTen"](5))
    matrices = [np.eye(row.channels) for row in spec.rows] + [np.eye(5)]
    matrices[0][3, 3] = 0  # dead in both networks
    matrices[1][4] = 0  # dead in A, while B's matched channel varies
    matrices[1][5, 4] = 0.2
    means = mean_correlations(spec, matrices, spec.identity())
    assert means[0] == 1
    assert means[1] == pytest.approx(15 / 16)


def test_large_maps_are_subsampled():
    assert samples(torch.zeros(2, 3, 64, 64), (1,)).flatten(0, -2).shape == (2 * 32 * 32, 3)
    assert samples(torch.zeros(2, 3, 32, 32), (1,)).flatten(0, -2).shape == (2 * 32 * 32, 3)
    assert samples(torch.zeros(2, 3), (1,)).flatten(0, -2).shape == (2, 3)


@pytest.mark.parametrize("before", [True, False])
def test_least_distance_finds_a_planted_permutation(before):
    """The best assignment of products is that of least L2 distance; a shuffled copy is at distance 0."""
    (batch,) = images("TinyTen")
    model = lively(randomize(MODELS["TinyTen"](5)), batch)
    spec = permutation_spec(model)
    planted = spec.random(0)
    shuffled = MODELS["TinyTen"](5).eval()
    shuffled.load_state_dict(permute(model.state_dict(), spec, planted))
    moments = cross_moments(model, shuffled, spec, [batch], before=before)
    by_hand = assign_groups(spec, [m.product() for m in moments])
    by_name = align(model, shuffled, spec, [batch], method="w2_pre" if before else "w2_post")
    for expected, *found in zip(inverse(spec, planted), by_hand, by_name, strict=True):
        np.testing.assert_array_equal([expected, expected], found)


def test_what_goes_into_activations_is_compared_in_the_network_as_it_is():
    """All pre-activations: of a network whose activations are rectified, what batch norm puts out."""
    (batch,) = images("TinyTen")
    a, b = (lively(randomize(MODELS["TinyTen"](5), seed), batch) for seed in (1, 2))
    spec = permutation_spec(a)
    seen = []
    for network in (a, b):
        outputs = []
        hooks = [
            layer.bn.register_forward_hook(lambda *c, to=outputs: to.append(c[-1].clone()))
            for layer in network.layers
        ]
        with torch.no_grad():
            network(batch)
        for hook in hooks:
            hook.remove()
        seen.append([samples(output, (1,)).flatten(0, -2).double().numpy() for output in outputs])
    correlated = align(a, b, spec, [batch], method="corr_pre")
    nearest = align(a, b, spec, [batch], method="w2_pre")
    for x, y, one, other in zip(*seen, correlated, nearest, strict=True):
        np.testing.assert_array_equal(one, linear_sum_assignment(-z_scored(x).T @ z_scored(y))[1])
        np.testing.assert_array_equal(other, linear_sum_assignment(-x.T @ y)[1])


def test_mean_distances_are_root_mean_squares():
    """√(Σ over channels and positions of squared differences, by the number of images), as published, by √(C·H·W)."""
    (batch,) = images("TinyTen", 20)
    a, b = (lively(randomize(MODELS["TinyTen"](5), seed), batch) for seed in (1, 2))
    spec = permutation_spec(a)
    found = mean_distances(spec, cross_moments(a, b, spec, [batch]), spec.identity())
    with torch.no_grad():
        for layer in range(3):
            x, y = (network.layers[: layer + 1](batch).double() for network in (a, b))
            published = ((x - y).square().sum() / len(batch)).sqrt() / x[0].numel() ** 0.5
            assert found[layer] == pytest.approx(published.item(), rel=1e-5)


def test_ties_are_broken_by_what_goes_into_the_activations():
    """On the first 512 images alone, at a weight below any difference in correlation that matters."""
    x = torch.randn(600, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    a, b = (randomize(MODELS["TinyTen"](5), seed).eval() for seed in (1, 2))
    spec = permutation_spec(a)
    ties = cross_correlations(a, b, spec, [x[:512]], before=True)
    matrices = cross_correlations(a, b, spec, [x])
    scores = [matrix + 1e-6 * tie for matrix, tie in zip(matrices, ties, strict=True)]
    for expected, found in zip(assign_groups(spec, scores), align(a, b, spec, x.split(200)), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("batch_size", [4, 50, 128])
def test_the_match_does_not_depend_on_the_batches(batch_size):
    """Not even where most channels never fire, so that ties decide: sums are the same to the last bit."""
    x = torch.randn(600, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    a, b = (randomize(MODELS["TinyTen"](5), seed).eval() for seed in (1, 2))
    with torch.no_grad():
        for network in (a, b):
            for layer in network.layers:
                layer.bn.bias[::2] = -20  # never fires
    spec = permutation_spec(a)
    for function in (align, cross_correlations):
        whole = function(a, b, spec, x.split(512))
        for expected, found in zip(whole, function(a, b, spec, x.split(batch_size)), strict=True):
            np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("method", METHODS)
def test_batches_may_be_what_a_loader_gives(method):
    """Tuples that begin with the images, from something that can be gone through once."""
    x = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    a, b = (randomize(MODELS["TinyTen"](5), seed).eval() for seed in (1, 2))
    spec = permutation_spec(a)
    labelled = torch.utils.data.TensorDataset(x, torch.zeros(40, dtype=torch.long))
    loader = torch.utils.data.DataLoader(labelled, batch_size=16)
    expected, before = align(a, b, spec, x.split(16), method=method), torch.get_rng_state()
    align(a, b, spec, loader, method=method)
    assert torch.equal(before, torch.get_rng_state())
    for batches in (loader, iter(list(loader))):
        for one, other in zip(expected, align(a, b, spec, batches, method=method), strict=True):
            np.testing.assert_array_equal(one, other)


def test_networks_are_left_in_the_modes_they_were_in():
    a, b = (randomize(MODELS["TinyTen"](5), seed) for seed in (1, 2))
    a.train()
    a.layers[0].eval()
    b.eval()
    before = [[module.training for module in network.modules()] for network in (a, b)]
    states = [{name: value.clone() for name, value in network.state_dict().items()} for network in (a, b)]
    align(a, b, permutation_spec(a), [torch.randn(8, 3, 12, 12)])
    assert [[module.training for module in network.modules()] for network in (a, b)] == before
    for state, network in zip(states, (a, b), strict=True):  # nor did running statistics move
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_pair_is_aligned_on_the_images_of_an_experiment(trained, load_bars):
    """By the stage: on the dataset's alignment images, and measured on its test images before and after."""
    data, layout = load_bars(), Layout(trained, "TinyTen", "bars")
    a, b = (load_endpoint(builder("TinyTen"), layout, data, seed, 3) for seed in (1, 2))
    spec = permutation_spec(a)
    _, permutations = load_alignment(layout.match("corr", 1, 2), (a, b), spec=spec)
    expected = align(a, b, spec, data.alignment.batches(32))
    for one, other in zip(expected, permutations, strict=True):
        np.testing.assert_array_equal(one, other)
    on_test = cross_correlations(a, b, spec, data.test.batches(100))
    for which, order in (("unaligned", spec.identity()), ("aligned", permutations)):
        measured = load_array(layout.correlation("corr", which, 1, 2))
        np.testing.assert_allclose(measured, mean_correlations(spec, on_test, order), atol=1e-5)


def test_activations_that_share_channels_each_matched_by_itself():
    """Every row by its own best assignment, at least as good as the stream's; other rows are as they were."""
    a, b = (randomize(MODELS["ResNet32"](5), seed) for seed in (1, 2))
    x = images("ResNet32", 16)
    for network in (a, b):
        lively(network, x[0])
    spec = permutation_spec(a)
    apart = each_by_itself(spec)
    matrices = cross_correlations(a, b, apart, x)
    together, own = align(a, b, spec, x), align(a, b, apart, x)
    for matrix, order in zip(matrices, rows_from_permutations(apart, own), strict=False):  # the logits have no row
        best = matrix[linear_sum_assignment(matrix, maximize=True)].sum()
        assert matrix[np.arange(len(order)), order].sum() == pytest.approx(best, abs=1e-4)
    by_itself = mean_correlations(apart, matrices, own)
    tied = mean_correlations(spec, matrices, together)
    shared = [
        number for number, row in enumerate(spec.rows) if row.label == "layers.0.2" or row.label.endswith("relu2")
    ]
    assert len(shared) == 16
    alone = [number for number in range(len(tied)) if number not in shared]
    np.testing.assert_allclose(by_itself[alone], tied[alone], atol=1e-12)
    assert (by_itself[shared] > tied[shared] - 1e-5).all()
    assert by_itself[shared].mean() > tied[shared].mean() + 0.02
    assert by_itself[0] == pytest.approx(tied[0])  # the stem decides its stream alone
    assert each_by_itself(permutation_spec(MODELS["TinyTen"](5))) is None


def test_what_the_stem_decides_can_be_matched_by_itself():
    """Of ResNet32 the five outputs of stage 1, together: what is voted for beside them stays as it is."""
    spec = permutation_spec(MODELS["ResNet32"](5))
    apart = unheard_apart(spec)
    assert len(apart.groups) == len(spec.groups) + 1
    (own,) = {group for row in apart.rows for group in groups_in(row.axis)} - set(range(len(spec.groups)))
    assert [i for i, row in enumerate(apart.rows) if own in row.votes] == [2, 4, 6, 8, 10]
    for i, (row, before) in enumerate(zip(apart.rows, spec.rows, strict=True)):
        assert i in (2, 4, 6, 8, 10) or row == before
    assert all(unheard_apart(permutation_spec(MODELS[name](5))) is None for name in ("TinyTen", "GoogLeNet"))


def test_alignment_on_attacked_images(load_bars):
    """Each network sees the images as attacked on itself, from one random start: so a shuffled copy is found."""
    data, attack = load_bars(transform="Adversarial"), Attack(8 / 255, 2 / 255, 2)
    x = torch.cat([x for x, _ in data.train.batches(160)])
    a = lively(randomize(MODELS["TinyTen"](4), 1), x)
    spec = permutation_spec(a)
    planted = spec.random(0)
    b = MODELS["TinyTen"](4).eval()
    b.load_state_dict(permute(a.state_dict(), spec, planted))

    def attacked_on(a, b):
        return attacked(data.alignment.batches(50), (a, b), data.alignment, attack)

    found = align(a, b, spec, attacked_on(a, b))
    assert all(map(np.array_equal, found, inverse(spec, planted)))
    on_test = cross_correlations(a, b, spec, data.test.batches(50))
    np.testing.assert_allclose(mean_correlations(spec, on_test, found), 1, atol=1e-5)

    other = lively(randomize(MODELS["TinyTen"](4), 2), x)
    shown = list(attacked(data.train.batches(50), (a, other), data.train, attack))
    for network, shown_to_it in zip((a, other), zip(*shown, strict=True), strict=True):
        generator = torch.Generator().manual_seed(ATTACK_SEED)
        for images, (x, labels) in zip(shown_to_it, data.train.batches(50), strict=True):
            assert torch.equal(images, attack(network, x, labels, data.train, generator))
            assert 0 < (images - x).abs().max() <= 8 / 255 + 1e-6
    assert not torch.equal(shown[0].a, shown[0].b)
    matches = [align(a, other, spec, x) for x in (data.alignment.batches(50), attacked_on(a, other))]
    assert not all(map(np.array_equal, *matches))
