"""Whether a network can work on images, found out before the work begins."""

import copy

import torch
from torch import nn

from ..batches import Images
from ..errors import UserError
from ..losses import main_output

LARGEST_TRIED = 256  # side of an image, in the search for one that a network can take


@torch.no_grad()
def check_input(model: nn.Module, images: Images, batch_size: int | None = None) -> None:
    """UserError if a network cannot take images of this size or shape, or not in batches of this size, or does not
    classify them. It stays as it is.

    batch_size: of batches on which batch norm takes statistics, as in training; None if there are none.
    """
    x = images.first(1)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        _check_logits(model, model(x), images)
    except (RuntimeError, ValueError, AssertionError) as error:
        smallest = _smallest_size(model)
        if smallest is None:  # the images' size is not what is wrong
            raise
        height, width = images.size
        takes = "the smallest image size that it takes is" if smallest > min(height, width) else "it takes"
        raise UserError(
            f"{type(model).__name__} cannot take images of {width}×{height}; {takes} {smallest}×{smallest}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if batch_size is not None and _leaves_one_alone(len(images), batch_size):
        _check_single(model, images, batch_size)


def _check_logits(model: nn.Module, output: object, images: Images) -> None:
    """UserError if what a network puts out for one image is not a logit for each class."""
    try:
        shape = tuple(main_output(output).shape)
    except TypeError as error:
        raise UserError(f"{type(model).__name__} is no classifier: {error}") from error
    classes = int(images.labels.max()) + 1
    if len(shape) != 2 or shape[1] < classes:
        wanted = f"a logit for each of {classes} classes, as (1, {classes})"
        raise UserError(f"{type(model).__name__} puts out {shape} for one image, where {wanted}, is wanted")


def _smallest_size(model: nn.Module) -> int | None:
    """The side of the smallest square images that a network can take, if any of moderate size can be found."""
    shapes_only = copy.deepcopy(model).to("meta")
    for side in range(1, LARGEST_TRIED + 1):
        try:
            shapes_only(torch.empty(1, 3, side, side, device="meta"))
        except (RuntimeError, ValueError, AssertionError):
            continue
        return side
    return None


def _leaves_one_alone(count: int, batch_size: int) -> bool:
    """Whether the last batch of so many images, or each, has a single one."""
    return batch_size == 1 or count % batch_size == 1


def _check_single(model: nn.Module, images: Images, batch_size: int) -> None:
    """UserError if a network's batch norm has nothing to average over in a batch of one image.

    So it is where its maps have a single place left. Statistics of such a batch have no variance.
    """
    shapes_only = copy.deepcopy(model).to("meta").train()
    try:
        shapes_only(torch.empty(1, 3, *images.size, device="meta"))
    except ValueError as error:
        count = len(images)
        smaller, larger = range(batch_size - 1, 1, -1), range(batch_size + 1, count + 1)
        better = next((size for size in (*smaller, *larger) if not _leaves_one_alone(count, size)), None)
        raise UserError(
            f"with a batch size of {batch_size}, the last of {count} images is alone in its batch, and the batch "
            f"normalization of {type(model).__name__} needs two at least; "
            + (f"a batch size of {better} leaves none alone" if better else "use more images")
        ) from error
    except RuntimeError:  # what cannot be run without numbers is not judged
        return
