"""Rotations: which groups of which networks have them, that the function is kept, and that planted ones come back."""

import copy
import json
from unittest import mock

import networks
import numpy as np
import pytest
import torch
from networks.kinds import TOKENS, Run, weight
from torch import nn
from torch.nn import functional as F

from utils.matching import align
from utils.pam import learn_pam
from utils.permutations import PermutationSpec, absorbed, compose, inverse, permute
from utils.repairing import merge
from utils.symmetries import kinds
from utils.symmetries.spec import permutation_spec

ORDERS, ONES, ALL, ANY = "permutation", "orthogonal, ones kept", "orthogonal", "invertible"


class RMS(nn.Module):
    """x / √mean(x²), times (a number and) a gain."""

    def __init__(self, width, offset=None):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width)) if offset is not None else None
        self.offset = offset

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return x if self.gain is None else x * (self.gain + self.offset if self.offset else self.gain)


def turned(x):
    """Rotary embedding."""
    places = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
    angle = places / 100 ** (torch.arange(x.shape[-1] // 2, dtype=x.dtype) / 2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Block(nn.Module):
    """keys: heads of keys and values, for 4 of queries. post: norms stand behind the sums."""

    def __init__(self, norm, *, keys=4, rotary=False, gated=False, post=False, bias=True):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 4 * heads, bias=bias) for heads in (4, keys, keys))
        self.out, self.up = nn.Linear(16, 16, bias=bias), nn.Linear(16, 24, bias=bias)
        self.gate, self.down = nn.Linear(16, 24, bias=bias) if gated else None, nn.Linear(24, 16, bias=bias)
        self.before, self.between = norm(16), norm(16)
        self.rotary, self.post = rotary, post

    def attend(self, x):
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = (turned(q), turned(k)) if self.rotary else (q, k)
        k, v = (y.repeat_interleave(4 // y.shape[1], 1) for y in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def mix(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x) if self.gate else F.gelu(self.up(x)))

    def forward(self, x):
        if self.post:
            x = self.before(x + self.attend(x))
            return self.between(x + self.mix(x))
        x = x + self.attend(self.before(x))
        return x + self.mix(self.between(x))


def words(norm, *, tied=False, last=None, places=True, **options):
    """Tokens → embedding → two blocks → norm → logits."""

    def forward(self, tokens):
        x = self.words(tokens)
        return self.head(self.last(self.blocks(x + self.places if places else x)))

    blocks = nn.Sequential(*(Block(norm, **options) for _ in range(2)))
    parts = {"words": nn.Embedding(30, 16, padding_idx=0), "blocks": blocks, "last": (last or norm)(16)}
    parts |= {"head": nn.Linear(16, 30, bias=False), **({"places": weight(8, 16)} if places else {})}
    model = Run(forward, **parts)
    if tied:
        model.head.weight = model.words.weight
    return model


def patches():
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places)
        return self.head(self.last(x)[:, 0])

    blocks = nn.Sequential(Block(nn.LayerNorm), Block(nn.LayerNorm))
    ends = {"patch": nn.Conv2d(3, 16, 4, 4), "head": nn.Linear(16, 10), "last": nn.LayerNorm(16)}
    return Run(forward, blocks=blocks, first=weight(1, 1, 16), places=weight(1, 5, 16), **ends)


LLAMA = {"keys": 2, "rotary": True, "gated": True, "bias": False, "places": False}

# A network, what its stream may undergo, and how many gains are absorbed
TRANSFORMERS = {
    "gpt": (lambda: words(lambda width: RMS(width, 0)), ALL, 5),
    "gpt_without_gains": (lambda: words(RMS, tied=True), ALL, 0),
    "gpt_with_layer_norm": (lambda: words(nn.LayerNorm), ONES, 5),
    "gpt_tied": (lambda: words(nn.RMSNorm, tied=True), ORDERS, 0),
    "gpt_tied_but_for_a_gain": (lambda: words(nn.RMSNorm, tied=True, last=RMS), ALL, 4),
    "llama": (lambda: words(nn.RMSNorm, **LLAMA), ALL, 5),
    "gains_about_one": (lambda: words(lambda width: RMS(width, 1), **LLAMA), ALL, 5),
    "bert": (lambda: words(nn.LayerNorm, post=True), ORDERS, 0),
    "vit": (patches, ONES, 5),
}


def built(name):
    """In float64, none of its vectors all zeros or ones; its example; what may be rotated."""
    torch.manual_seed(0)
    model = TRANSFORMERS[name][0]().double()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    example = torch.randn(2, 3, 8, 8).double() if name == "vit" else torch.randint(0, 30, (2, 8))
    return model, example, permutation_spec(model, example, rotations=True)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name):
    """What may be rotated, that it keeps the function, and that what is planted comes back."""
    model, example, spec = built(name)
    _, stream, gains = TRANSFORMERS[name]
    assert spec.kinds[0] == stream and len(spec.gains) == gains, (spec.kinds, spec.reasons)
    assert spec.kinds.count(ANY) == (2 if spec.groups[1].size == 2 else 4)  # values; without rotary, queries and keys
    plain = permutation_spec(model, example, proof=False)
    assert plain.groups == spec.groups and plain.rows == spec.rows and not plain.kinds
    planted = copy.deepcopy(model)
    planted.load_state_dict(permute(model.state_dict(), spec, spec.random(3)))
    with torch.no_grad():
        assert (model(example) - planted(example)).abs().max() <= 1e-8 * model(example).abs().max()
    wanted = absorbed(model.state_dict(), spec)
    torch.manual_seed(1)
    batches = [example.new_tensor(np.random.default_rng(i).normal(size=(16, 3, 8, 8))) for i in range(8)]
    batches = batches if name == "vit" else [torch.randint(0, 30, (16, 8)) for _ in range(8)]
    for method, bound in {"weight": 1e-6, "corr": 1e-5}.items():  # activations are compared in float32
        found = align(model, planted, spec, batches, method=method, rotations=True)
        back = permute(planted.state_dict(), spec, found)
        far = {key: ((back[key] - value).norm() / value.norm()).item() for key, value in wanted.items()}
        assert max(far.values()) <= bound, (method, far)


@pytest.mark.parametrize("method", ["weight", "corr"])
def test_groups_are_held_beside_rotations(method):
    """The stream stays, or the heads with all inside them; everything else that was planted comes back."""
    model, _, spec = built("llama")
    wanted, batches = absorbed(model.state_dict(), spec), [torch.randint(0, 30, (64, 8)) for _ in range(2)]
    for held in (0, next(n for n, group in enumerate(spec.groups) if group.depends_on == () and n in inner(spec))):
        kept = {held, *(n for n, group in enumerate(spec.groups) if held in group.depends_on)}
        planted, same = spec.random(1), spec.identity()
        other = copy.deepcopy(model)
        orders = [same[n] if n in kept else order for n, order in enumerate(planted)]
        other.load_state_dict(permute(model.state_dict(), spec, orders))
        found = align(model, other, spec, batches, method=method, rotations=True, groups=[held])
        assert all((found[n] == same[n]).all() for n in kept)
        back = permute(other.state_dict(), spec, found)
        assert max(((back[key] - value).norm() / value.norm()).item() for key, value in wanted.items()) < 1e-5


def inner(spec):
    """The groups that have others in their blocks."""
    return {other for group in spec.groups for other in group.depends_on}


def test_a_tied_gain_is_told():
    _, _, spec = built("gpt_tied")
    assert spec.reasons[0].startswith("last.weight cannot be absorbed")
    assert f"permutation ({spec.reasons[0]})" in repr(spec) and "invertible" in repr(spec)


# --- what leaves permutations -------------------------------------------------------------------------------------


def quantized(x):
    return (x * 8).round() / 8


TRAPS = {
    "gate": lambda x: x * torch.sigmoid(x),
    "product": lambda x: x * x.flip(1),
    "sort": lambda x: x.sort(-1)[0],
    "quantization": quantized,
    "dropout": lambda x: F.dropout(x, 0.1, training=True),
    "largest": lambda x: x + x.amax(-1, keepdim=True),
    "norm_of_another_kind": lambda x: x + x.norm(p=1, dim=-1, keepdim=True),
    "squares": lambda x: x + 0.1 * x.square(),
    "cubes": lambda x: x + x.pow(3).mean(-1, keepdim=True),
    "softmax": lambda x: x.softmax(-1),
    "integers": lambda x: x + x.long().to(x.dtype),
    "chosen": lambda x: x.where(x > 0, 0.1 * x),
}  # fmt: skip


def streamed(touch):
    def forward(self, x):
        x = self.a(x)
        x = touch(x + self.b(F.rms_norm(x, (8,))))
        return self.c(F.rms_norm(x, (8,)).mean(1))

    return Run(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 3))


@pytest.mark.parametrize("trap", TRAPS)
def test_what_touches_entries_leaves_permutations(trap):
    assert permutation_spec(streamed(lambda x: x), *TOKENS, rotations=True).kinds == (ALL,)
    spec = permutation_spec(streamed(TRAPS[trap]), *TOKENS, rotations=True)
    assert set(spec.kinds) <= {ORDERS}, spec.kinds


LEAVE = {
    "nothing": (lambda self, x: self.b(self.a(x)), ANY),
    "means": (lambda self, x: self.b(self.a(x) - self.a(x).mean(-1, keepdim=True)), ONES),
    "a_number_added": (lambda self, x: self.b(self.a(x) + 1), ONES),
    "columns_added": (lambda self, x: self.b(self.a(x) + x.mean(-1, keepdim=True).expand(-1, -1, 6)), ONES),
    "variances": (lambda self, x: self.b(self.a(x) / self.a(x).var(-1, keepdim=True)), ONES),
    "norms": (lambda self, x: self.b(F.normalize(self.a(x), dim=-1)), ALL),
    "squares": (lambda self, x: self.b(y := self.a(x)) * (y * y).sum(-1, keepdim=True), ALL),
    "a_sum": (lambda self, x: self.b(self.a(x)) * self.a(x).sum(-1, keepdim=True), ONES),
    "a_product": (lambda self, x: self.b(self.a(x) * self.a(x.flip(1))), ORDERS),
    "itself": (lambda self, x: self.b(self.a(x)).mean(-1) @ (self.a(x) @ self.a(x).mT), ALL),
    "layer_norm": (lambda self, x: self.b(F.layer_norm(self.a(x), (6,))), ONES),
    "squared_entries": (lambda self, x: self.b(self.a(x).square()), ORDERS),
    "a_gain": (lambda self, x: self.b(F.rms_norm(self.a(x), (6,)) * self.gain), ALL),
    "a_gain_of_writers": (lambda self, x: self.b(F.rms_norm(self.a(x) * self.gain, (6,))), ALL),
    "a_gain_beside": (lambda self, x: self.b((n := F.rms_norm(self.a(x), (6,))) * self.gain + n), ORDERS),
    "a_quotient": (lambda self, x: self.b(self.a(x) / self.gain), ORDERS),
    "convolution": (
        lambda self, x: F.conv1d(F.conv1d(x.mT, self.a.weight[..., None]), self.b.weight[..., None]), ANY,
    ),
    "words": (lambda self, x: self.b(F.embedding((x > 0).long(), self.table)), ANY),
}  # fmt: skip


def small(case):
    torch.manual_seed(0)
    parts = {"b": nn.Linear(6, 3, bias=case != "convolution")}
    parts |= {"table": weight(9, 6)} if case == "words" else {"a": nn.Linear(8, 6, bias=case != "convolution")}
    return Run(LEAVE[case][0], **parts, **({"gain": weight(6)} if "gain" in case or case == "a_quotient" else {}))


@pytest.mark.parametrize("case", LEAVE)
def test_what_operations_leave(case):
    spec = permutation_spec(small(case), *TOKENS, rotations=True)
    assert spec.kinds[0] == LEAVE[case][1], spec.reasons


def test_kinds_that_change_the_function_are_lowered():
    """Planting alone finds the right kinds, whatever slopes say."""
    with mock.patch.object(kinds, "kind_of", lambda slopes, size: (ANY, [])):
        assert permutation_spec(streamed(quantized), *TOKENS, rotations=True).kinds == (ORDERS,)
        assert permutation_spec(small("norms"), *TOKENS, rotations=True).kinds == (ALL,)
        assert permutation_spec(small("means"), *TOKENS, rotations=True).kinds == (ONES,)


@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if not hasattr(networks.recurrent, name)])
def test_the_function_of_every_network_is_kept(name):
    model, example = networks.build(name)
    spec = kinds.with_kinds(permutation_spec(model, *example, proof=False), model, example, {}, None, proof=True)
    assert set(spec.kinds) <= {ORDERS} or kinds.prove_rotations(model, spec, *example) <= 1e-8


# --- applying -------------------------------------------------------------------------------------------------------


def test_rotations_are_composed_and_undone():
    model, _, spec = built("llama")
    state, (first, second) = absorbed(model.state_dict(), spec), (spec.random(seed) for seed in (1, 2))
    one_by_one = permute(permute(state, spec, first), spec, second)
    at_once = permute(state, spec, compose(spec, first, second))
    undone = permute(permute(state, spec, first), spec, inverse(spec, first))
    assert all(torch.allclose(one_by_one[key], at_once[key], atol=1e-12) for key in state)
    assert all(torch.allclose(undone[key], state[key], atol=1e-12) for key in state)


def test_gains_are_absorbed_once():
    model, example, spec = built("gains_about_one")
    state = permute(model.state_dict(), spec, spec.identity())
    assert all((state[entry] == 0).all() for gain in spec.gains for entry in gain.entries)
    again = absorbed(state, spec)
    assert all(torch.equal(state[key], again[key]) for key in state)
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    assert torch.allclose(model(example), other(example), atol=1e-12)


def test_what_is_no_matrix_of_its_kind_is_refused():
    model, _, spec = built("vit")
    for matrix in (np.eye(16) * 2, np.eye(16)[:8], np.diag([-1.0, *[1] * 15]), np.full((16, 16), np.nan)):
        with pytest.raises(ValueError, match="group 0"):
            permute(model.state_dict(), spec, [matrix, *spec.identity()[1:]])
    with pytest.raises(ValueError, match="group 1"):  # which moves blocks
        permute(model.state_dict(), spec, [spec.identity()[0], np.eye(4), *spec.identity()[2:]])


def test_a_spec_goes_through_a_file():
    _, _, spec = built("gpt")
    again = PermutationSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert vars(again) == vars(spec)
    plain = permutation_spec(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), *TOKENS)
    assert not {"kinds", "reasons", "gains", "duals"} & plain.to_json().keys()


def test_rotations_that_cannot_be_found_are_refused():
    model, example, spec = built("gpt")
    plain = permutation_spec(model, example, proof=False)
    with pytest.raises(ValueError, match="has permutations alone"):
        align(model, model, plain, method="weight", rotations=True)
    with pytest.raises(ValueError, match="rotations are found by weight or corr"):
        align(model, model, spec, method="identity", rotations=True)


def test_what_mixes_networks_absorbs_gains_first():
    model, example, spec = built("gpt")
    planted = copy.deepcopy(model)
    planted.load_state_dict(permute(model.state_dict(), spec, spec.random(3)))
    found = align(model, planted, spec, method="weight", rotations=True)
    batches = [(torch.randint(0, 30, (4, 8)), torch.randint(0, 30, (4, 8)))]
    with mock.patch("utils.repairing.renormalizer", lambda *_, **__: lambda *_: None):
        merged = merge(model, planted, spec, found, batches)
    assert torch.allclose(merged(example), model(example), atol=1e-6)
    with pytest.raises(ValueError, match="PAM learns permutations alone"):
        learn_pam(model, planted, spec, batches)


def test_rotations_bring_trained_weights_closer():
    """Two random networks: each kind that is added brings them nearer to each other."""
    model, example, spec = built("gpt")
    torch.manual_seed(5)
    other = TRANSFORMERS["gpt"][0]().double()
    a = absorbed(model.state_dict(), spec)
    distances = []
    for rotations in (False, True):
        found = align(model, other, spec, method="weight", rotations=rotations)
        b = permute(other.state_dict(), spec, found)
        distances.append(sum((a[key] - b[key]).square().sum().item() for key in a))
    unaligned = sum(
        (a[key] - value).square().sum().item() for key, value in absorbed(other.state_dict(), spec).items()
    )
    assert distances[1] < distances[0] < unaligned
