"""Transformers of libraries: torchvision's, and Hugging Face's where those are installed."""

import copy

import pytest
import torch
from torchvision.models import VisionTransformer

from utils.matching import align
from utils.permutations import absorbed, permute
from utils.symmetries.spec import permutation_spec

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 32}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "tie_word_embeddings": False}
GPT2 |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0)
HUGGING_FACE = {  # and the kind of the stream
    "GPT2LMHeadModel": ("GPT2Config", GPT2, "orthogonal, ones kept"),
    "LlamaForCausalLM": ("LlamaConfig", SIZES | {"num_key_value_heads": 2}, "orthogonal"),
    "BertForMaskedLM": ("BertConfig", SIZES, "permutation"),
}


def expect_planted_ones_back(model, example, stream):
    """In float64, with gains and biases that are no ones and zeros."""
    model = model.double()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    spec = permutation_spec(model, example, rotations=True)
    assert spec.kinds[0] == stream and "invertible" in spec.kinds, repr(spec)
    planted = copy.deepcopy(model)
    planted.load_state_dict(permute(model.state_dict(), spec, spec.random(3)))
    back = permute(planted.state_dict(), spec, align(model, planted, spec, method="weight", rotations=True))
    wanted = absorbed(model.state_dict(), spec)
    far = {name: ((back[name] - value).norm() / value.norm()).item() for name, value in wanted.items() if value.any()}
    assert max(far.values()) < 1e-6, far


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_faces(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config, sizes, stream = HUGGING_FACE[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**sizes))
    expect_planted_ones_back(model, torch.randint(0, 50, (2, 8)), stream)


def test_torchvisions():
    torch.manual_seed(0)
    model = VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=5)
    torch.nn.init.normal_(model.heads.head.weight)  # which are zeros at first
    expect_planted_ones_back(model, torch.randn(2, 3, 16, 16).double(), "orthogonal, ones kept")
