"""The architectures. Each is written once, as a plain module that knows nothing of curves or permutations."""

from models.googlenet import GoogLeNet
from models.named import FORMS, MODELS, build, builder, check_name, found, made
from models.resnet32 import ResNet32
from models.tinyten import TinyTen

__all__ = ["FORMS", "MODELS", "GoogLeNet", "ResNet32", "TinyTen", "build", "builder", "check_name", "found", "made"]
