"""What image files show: the right pixels, or a refusal that names the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from utils.errors import FileError
from utils.stages.folders import decode, fitted

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (6, 8), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (6, 8), dtype=np.uint16)
GREY = COLOUR[..., 0]

TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


def in_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def on_black(pixels, alpha):
    return np.rint(pixels * (alpha[..., None] / 255)).astype(np.uint8)


def shows(path, image, expected, **options):
    """Whether an image, saved at the path, is decoded as expected."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    decoded = decode(path)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def refused(path, message):
    with pytest.raises(FileError, match=message) as caught:
        decode(path)
    assert caught.value.path == path


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "webp", "ppm", "tif", "TIFF"])
def test_formats_without_loss(tmp_path, suffix):
    shows(tmp_path / f"a.{suffix}", COLOUR, COLOUR, **({"lossless": True} if suffix == "webp" else {}))


@pytest.mark.parametrize("suffix", ["pgm", "png", "bmp", "tif"])
def test_grey(tmp_path, suffix):
    shows(tmp_path / f"a.{suffix}", GREY, in_rgb(GREY))
    two = GREY > 127
    shows(tmp_path / f"b.{suffix}", two, in_rgb(255 * two.astype(np.uint8)))


def test_other_kinds_of_colour(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(8)
    for suffix in ("png", "gif", "bmp", "tif"):
        shows(tmp_path / f"p.{suffix}", palette, np.asarray(palette.convert("RGB")))
    for mode in ("CMYK", "YCbCr"):
        converted = Image.fromarray(COLOUR).convert(mode)
        shows(tmp_path / "c.tif", converted, np.asarray(converted.convert("RGB")))
    smooth = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "c.jpg", quality=100)
    assert np.abs(decode(tmp_path / "c.jpg").astype(int) - smooth).max() < 20


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "packed.tif", "big.tif"])
def test_grey_of_16_bits_is_divided_by_257(tmp_path, name):
    image = DEEP.astype(">u2") if name == "big.tif" else DEEP
    options = {"compression": "tiff_lzw"} if name == "packed.tif" else {}
    shows(tmp_path / name, image, in_rgb(np.rint(DEEP / 257).astype(np.uint8)), **options)
    white_to_black = np.array([[0, 128, 129, 65535]], np.uint16)
    shows(tmp_path / name, white_to_black, in_rgb(np.array([[0, 0, 1, 255]], np.uint8)))


def test_netpbm_of_other_depths(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([0, 1023], ">u2").tobytes())
    assert decode(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 255]
    (tmp_path / "a.ppm").write_bytes(b"P6 8 6 65535\n" + (257 * COLOUR.astype(">u2")).astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(tmp_path / "a.ppm"), COLOUR)
    (tmp_path / "a.pbm").write_bytes(b"P1 2 1 0 1\n")
    assert decode(tmp_path / "a.pbm")[0, :, 0].tolist() == [255, 0]


def write_deep_png(path, pixels, kind):
    """16 bits a channel, which Pillow does not write; kind: 2 colour, 4 grey and alpha, 6 colour and alpha."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def tiff(path, pixels, **tags):
    """An uncompressed TIFF of one strip, with tags as Pillow does not write them."""
    about = {256: pixels.shape[1], 257: pixels.shape[0], 259: 1, 262: 1, 273: 0, 277: 1, 278: pixels.shape[0]}
    about |= {258: 16, 279: pixels.nbytes} | {int(tag[1:]): value for tag, value in tags.items()}
    about[273] = 8 + 2 + 12 * len(about) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(about.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(about)) + entries + bytes(4) + pixels.tobytes())


def test_colour_of_16_bits_loses_the_lower_ones(tmp_path):
    deep = RANDOM.integers(0, 65536, (6, 8, 4))
    write_deep_png(tmp_path / "a.png", deep[..., :3], 2)
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), deep[..., :3] // 256)
    for kind, channels in ((4, [0, 0, 0, 1]), (6, [0, 1, 2, 3])):
        write_deep_png(tmp_path / "a.png", deep[..., sorted(set(channels))], kind)
        *colours, alpha = np.moveaxis(deep[..., channels] // 256, -1, 0)
        np.testing.assert_array_equal(decode(tmp_path / "a.png"), on_black(np.dstack(colours), alpha))


def test_depths_that_are_not_read(tmp_path):
    for numbers in (DEEP.astype(np.int32), DEEP.astype(np.float32)):
        Image.fromarray(numbers).save(tmp_path / "a.tif")
        refused(tmp_path / "a.tif", "have no known white")
    tiff(tmp_path / "right.tif", DEEP)
    np.testing.assert_array_equal(decode(tmp_path / "right.tif"), in_rgb(np.rint(DEEP / 257).astype(np.uint8)))
    tiff(tmp_path / "inverted.tif", DEEP, t262=0)
    refused(tmp_path / "inverted.tif", "have no known white")
    tiff(tmp_path / "twelve.tif", GREY[:, :6], t258=12, t256=4)
    refused(tmp_path / "twelve.tif", "have no known white")


def test_transparency_is_on_black(tmp_path):
    rgba = np.dstack([COLOUR, ALPHA])
    for suffix in ("png", "webp", "tif"):
        options = {"lossless": True, "exact": True} if suffix == "webp" else {}
        shows(tmp_path / f"a.{suffix}", rgba, on_black(COLOUR, ALPHA), **options)
    shows(tmp_path / "b.png", np.dstack([GREY, ALPHA]), on_black(in_rgb(GREY), ALPHA))
    opaque = np.dstack([COLOUR, np.full((6, 8), 255, np.uint8)])
    shows(tmp_path / "c.png", opaque, COLOUR)


def test_one_transparent_colour(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(8)
    expected = np.asarray(palette.convert("RGB")) * (np.asarray(palette) != 3)[..., None]
    for suffix in ("png", "gif"):
        shows(tmp_path / f"p.{suffix}", palette, expected, transparency=3)
    first = COLOUR[0, 0]
    expected = COLOUR * (first != COLOUR).any(-1, keepdims=True)
    shows(tmp_path / "c.png", COLOUR, expected, transparency=tuple(map(int, first)))
    shows(tmp_path / "g.png", GREY, in_rgb(GREY * (GREY[1, 1] != GREY)), transparency=int(GREY[1, 1]))
    expected = np.rint(DEEP / 257) * (DEEP[1, 1] != DEEP)
    shows(tmp_path / "d.png", DEEP, in_rgb(expected.astype(np.uint8)), transparency=int(DEEP[1, 1]))


@pytest.mark.parametrize("orientation", TURNED)
def test_images_are_turned_as_they_say(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    turn = TURNED[orientation]
    for suffix in ("png", "tif", "webp"):
        options = {"lossless": True} if suffix == "webp" else {}
        shows(tmp_path / f"a.{suffix}", COLOUR, turn(COLOUR), exif=exif, **options)
    for suffix in ("png", "tif"):  # as Pillow maps files into memory, uncompressed TIFF images were scrambled
        shows(tmp_path / f"g.{suffix}", GREY, turn(in_rgb(GREY)), exif=exif)
        deep = in_rgb(np.rint(DEEP / 257).astype(np.uint8))
        shows(tmp_path / f"d.{suffix}", DEEP, turn(deep), exif=exif)
        rgba = np.dstack([COLOUR, ALPHA])
        shows(tmp_path / f"t.{suffix}", rgba, turn(on_black(COLOUR, ALPHA)), exif=exif)
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - turn(COLOUR)).max() < 5


def test_many_frames_are_refused(tmp_path):
    first, *others = (Image.fromarray(np.roll(COLOUR, i, 0)) for i in range(3))
    for suffix in ("gif", "png", "webp", "tif"):
        first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others)
        refused(tmp_path / f"a.{suffix}", "it has 3 frames")
    # A camera's, with previews of itself behind it
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=others, quality=100, subsampling=0)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - COLOUR).max() < 5


def test_what_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("words")
    refused(tmp_path / "a.png", r"is not an image of a format that is read \(PNG, JPEG, .*GIF\)$")
    Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "b.png")
    for name, keep in (("b.png", 0.5), ("b.png", 0.1)):
        content = (tmp_path / name).read_bytes()
        (tmp_path / "cut.png").write_bytes(content[: int(keep * len(content))])
        refused(tmp_path / "cut.png", "is not an image that can be read: ")
    content = bytearray((tmp_path / "b.png").read_bytes())
    content[200] ^= 255
    (tmp_path / "flipped.png").write_bytes(content)
    refused(tmp_path / "flipped.png", "is not an image that can be read: ")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "is not an image that can be read: Is a directory")


@pytest.mark.parametrize("shape", [(31, 17), (17, 31), (40, 40), (16, 50), (9, 100), (5, 5), (16, 16), (33, 16)])
def test_fitted_as_torchvision_does(shape):
    image = Image.fromarray(RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(16)])(image)
    np.testing.assert_array_equal(np.asarray(fitted(image, 16)), np.asarray(expected))


def test_a_size_is_taken_of_what_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    tall = RANDOM.integers(0, 256, (20, 12, 4), dtype=np.uint8)
    Image.fromarray(tall).save(tmp_path / "a.png", exif=exif)
    shown = np.rot90(on_black(tall[..., :3], tall[..., 3]), -1)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8), np.asarray(fitted(Image.fromarray(shown), 8)))
