"""Pictures: what an image file shows, as 8-bit RGB, or a sentence on why it is not used.

A picture is what a viewer would show: turned as its EXIF orientation says, and transparent parts on black, which is
also what augmentation puts outside of an image. Grey of 16 bits is divided by 257, so that white stays white. What
Pillow would read as something else than it is (16 bits a colour, numbers without a white, several frames) is refused.
"""

from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import FileError, first_line

VERSION = 2  # of the rules of this file: what was decoded by others is decoded again

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")  # whatever a file's suffix says

MAX_PIXELS = 2**24  # augmentation finds pixels by numbers that are exact up to here


def check_file(path: Path) -> tuple[int, int, int, int]:
    """What tells whether a file has changed: size, times of its content and of its entry, number of its entry.

    FileError if there is no picture in it, whatever its format is.
    """
    try:
        about = path.stat()
    except FileNotFoundError as error:
        raise FileError(path, "is a link to a file that is not there", "exchange") from error
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror}") from error
    if not S_ISREG(about.st_mode):
        raise FileError(path, "is a folder, not an image" if S_ISDIR(about.st_mode) else "is not a file", "exchange")
    if about.st_size == 0:
        raise FileError(path, "is not an image: it is empty", "exchange")
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def decode(path: Path, size: int | None = None) -> np.ndarray:
    """The picture in an image file, uint8 (H, W, 3); cropped to (size, size, 3), if a size is given.

    Raises FileError if it cannot be used.
    """
    try:
        # As a stream: Pillow maps what it opens by path into memory, and scrambles some TIFF images that it turns
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            if why := _why_unusable(image):
                raise FileError(path, why)
            picture = _in_rgb(image)
        return np.asarray(picture if size is None else fitted(picture, size))
    except FileError:
        raise
    except UnidentifiedImageError as error:
        reason = f"is not an image of a format that is read ({', '.join(FORMATS)})"
        raise FileError(path, reason, "exchange") from error
    except Exception as error:  # what decoders raise can be anything
        why = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, PermissionError):
            raise FileError(path, f"cannot be read: {why}") from error
        raise FileError(path, f"is not an image that can be read: {why}", "exchange") from error


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """The middle (size × size) of a picture whose shorter side was resized to `size`, antialiased.

    As torchvision's Resize(size) and CenterCrop(size).
    """
    width, height = picture.size
    shorter = min(width, height)
    if shorter != size:
        width, height = (int(size * side / shorter) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def _why_unusable(image: Image.Image) -> str:
    """Why an opened file's pixels would not be what it shows; '' if they are."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG, followed by previews of itself
        return f"has {frames} frames, and an image has one"
    layout = str([tile[3] for tile in image.tile])  # of the bytes, in Pillow's words
    if _is_deep_grey(image):
        bits, white = (image.tag_v2.get(tag) for tag in (258, 262)) if image.format == "TIFF" else ((16,), 1)
        if bits != (16,) or white != 1:
            return "is grey of an unusual kind (not 16 bits, or 0 is white), which is not read; save it with 8 bits"
    elif image.mode in ("I", "F"):
        return "has numbers for pixels of which nobody says what is white; save it with 8 bits a channel"
    elif ";16" in layout and image.format in ("PNG", "TIFF"):
        return "has 16 bits a channel in colour or beside transparency, which is not read; save it with 8 bits"
    return ""


def _is_deep_grey(image: Image.Image) -> bool:
    """Whether pixels are grey of 16 bits, from 0 to 65535."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _in_rgb(image: Image.Image) -> Image.Image:
    deep = _is_deep_grey(image)
    image.load()
    image = ImageOps.exif_transpose(image)
    if deep:
        values = np.asarray(image).astype(np.int64)
        grey = (values + 128) // 257
        grey[values == image.info.get("transparency", -1)] = 0
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.getbands()[-1] in ("A", "a"):
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")
