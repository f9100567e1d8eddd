"""Networks that are made or run in ways of their own, or have inputs and outputs of other kinds."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from .kinds import VECTORS, Run, built, chain, conv, images, network


@built(VECTORS, 1)
def scripted():
    return torch.jit.script(chain(8, 6, 7, 3))


@built((VECTORS[0].double(),), 1)
def double_precision():
    return chain(8, 6, 7, 3).double()


@built((VECTORS[0].bfloat16(),), 1)
def half_precision():
    return chain(8, 6, 7, 3).bfloat16()


@network(VECTORS, 1, a=(8, 6), b=(6, 3))
def casts(self, x):
    """To kinds of numbers that are written down."""
    return self.b(F.relu(self.a(x.float())).half().float())


@network(VECTORS, 1, a=lambda: nn.Linear(8, 6, dtype=torch.cfloat), b=lambda: nn.Linear(6, 3, dtype=torch.cfloat))
def complex_numbers(self, x):
    x = self.a(x.to(self.a.weight.dtype))
    return self.b(torch.complex(F.relu(x.real), F.relu(x.imag))).abs()


@built(VECTORS, 1)
def function_that_holds_the_network():
    def run(self, x):
        self.a(x)
        return self.f(self.seen["a"])

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    model.seen = {}
    model.a.register_forward_hook(lambda module, inputs, output: model.seen.update(a=output))
    model.f = lambda x: model.b(F.relu(x))
    return model


@built(VECTORS, 1)
def attribute_in_the_memory_of_a_weight():
    def run(self, x):
        return self.b(F.relu(self.a(x)) + torch.sigmoid(F.linear(x, self.same)))

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    model.same = model.a.weight.data
    return model


@built(VECTORS, 0)
def attribute_in_a_part_of_a_weight():
    def run(self, x):
        return self.b(F.relu(self.a(x))) + F.linear(x, self.part)

    model = Run(run, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    model.part = model.a.weight.data[:3]
    return model


@built(VECTORS, 1)
def layers_that_are_no_modules():
    """They are in no state dict; what reads from them stays, and what it makes moves."""

    def run(self, x):
        return self.b(F.relu(self.a(F.relu(self.hidden[0](x)))))

    model = Run(run, a=nn.Linear(6, 7), b=nn.Linear(7, 3))
    model.hidden = [nn.Linear(8, 6)]
    return model


@network(VECTORS, 1, a=(8, 6), b=(6, 3))
def changes_its_input(self, x):
    return self.b(F.relu(self.a(x.mul_(2))))


@network(VECTORS, 1, a=(8, 6), b=(6, 3))
def mapped_over_samples(self, x):
    return torch.func.vmap(lambda v: self.b(torch.tanh(self.a(v))))(x)


@network(VECTORS, 1, a=(8, 6), b=(6, 3))
def in_inference_mode(self, x):
    """Where operations come whole that are others otherwise, e.g. `linear`."""
    with torch.inference_mode():
        return self.b(F.relu(self.a(x)))


@network(VECTORS, 0.9, a=(8, 6), none=lambda: nn.Parameter(torch.zeros(0, 6)), b=(6, 3))
def empty_parameter(self, x):
    return self.b(torch.cat([F.relu(self.a(x)), self.none]))


MOMENTS = {"mean": lambda: nn.Buffer(torch.zeros(1, 8, 1, 1)), "variance": lambda: nn.Buffer(torch.ones(1, 8, 1, 1))}


@images(1, conv=(8, 8), **MOMENTS)
def own_batch_norm(self, x):
    """A variance of more dimensions than one, and a mean that training changes."""
    if self.training:
        self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3), keepdim=True))
    return self.conv((x - self.mean) / self.variance.sqrt())


@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor | None = None


@network(
    ({"image": torch.randn(2, 3, 8, 8), "words": torch.randint(0, 11, (2, 5))},), 1, conv=lambda: conv(3, 6),
    table=lambda: nn.Embedding(11, 5), mid=(11, 7), head=(7, 3),
)  # fmt: skip
def dictionaries_and_dataclasses(self, inputs):
    image = F.relu(self.conv(inputs["image"])).mean((2, 3))
    words = self.table(inputs["words"]).mean(1)
    return Output(self.head(F.relu(self.mid(torch.cat([image, words], -1)))))


@network(VECTORS, 0.2, a=(8, 6), b=(6, 7), c=(7, 3))
def features_are_outputs(self, x):
    x = F.relu(self.a(x))
    return {"features": x, "logits": self.c(F.relu(self.b(x)))}


@network(VECTORS, 0.2, a=(8, 6), b=(6, 7), c=(7, 3))
def plain_object_as_output(self, x):
    x = F.relu(self.a(x))
    return SimpleNamespace(hidden=x, logits=self.c(F.relu(self.b(x))))


@network(VECTORS, 0.2, a=(8, 6), b=(6, 7), c=(7, 3))
def generator_as_output(self, x):
    x = F.relu(self.a(x))
    return (y for y in [self.c(F.relu(self.b(x))), x])
