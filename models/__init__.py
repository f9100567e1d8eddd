"""The architectures. Each is written once, as a plain module that knows nothing of curves or permutations."""

from models.googlenet import GoogLeNet
from models.resnet32 import ResNet32
from models.tinyten import TinyTen

MODELS = {model.__name__: model for model in (TinyTen, ResNet32, GoogLeNet)}

__all__ = ["MODELS", "GoogLeNet", "ResNet32", "TinyTen"]
