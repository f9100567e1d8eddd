"""What image files show: the right pixels, or a refusal that names the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torchvision.transforms import v2

from utils.errors import FileError
from utils.stages import folders
from utils.stages.folders import decode, squared

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (6, 8), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (6, 8, 4), dtype=np.uint16)
GREY, DEEP_GREY, TWO = COLOUR[..., 0], DEEP[..., 0], COLOUR[..., 0] > 127
RGBA = np.dstack([COLOUR, ALPHA])
PALETTE = Image.fromarray(COLOUR).quantize(8)
CMYK, YCBCR = (Image.fromarray(COLOUR).convert(mode) for mode in ("CMYK", "YCbCr"))


def in_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def on_black(pixels, alpha):
    return np.rint(pixels * (alpha[..., None] / 255)).astype(np.uint8)


def by_257(deep):
    return in_rgb(np.rint(deep / 257).astype(np.uint8))


# Suffixes, an image, what it shows, and how it is saved
SHOWN = {
    "colour": ("png PNG bmp ppm tif TIFF", COLOUR, COLOUR, {}),
    "webp": ("webp", COLOUR, COLOUR, {"lossless": True}),
    "grey": ("pgm png bmp tif", GREY, in_rgb(GREY), {}),
    "two levels": ("pgm png bmp tif", TWO, in_rgb(255 * TWO.astype(np.uint8)), {}),
    "palette": ("png gif bmp tif", PALETTE, np.asarray(PALETTE.convert("RGB")), {}),
    "CMYK": ("tif", CMYK, np.asarray(CMYK.convert("RGB")), {}),
    "YCbCr": ("tif", YCBCR, np.asarray(YCBCR.convert("RGB")), {}),
    "deep grey": ("png tif pgm", DEEP_GREY, by_257(DEEP_GREY), {}),
    "deep grey, big end first": ("tif", DEEP_GREY.astype(">u2"), by_257(DEEP_GREY), {}),
    "deep grey, packed": ("tif", DEEP_GREY, by_257(DEEP_GREY), {"compression": "tiff_lzw"}),
    "deep black and white": ("png tif", np.uint16([[0, 128, 129, 65535]]), in_rgb(np.uint8([[0, 0, 1, 255]])), {}),
    "alpha": ("png tif", RGBA, on_black(COLOUR, ALPHA), {}),
    "alpha in webp": ("webp", RGBA, on_black(COLOUR, ALPHA), {"lossless": True, "exact": True}),
    "grey and alpha": ("png", np.dstack([GREY, ALPHA]), on_black(in_rgb(GREY), ALPHA), {}),
    "transparent entry": (
        "png gif",
        PALETTE,
        np.asarray(PALETTE.convert("RGB")) * (np.asarray(PALETTE) != 3)[..., None],
        {"transparency": 3},
    ),
    "transparent colour": (
        "png",
        COLOUR,
        COLOUR * (COLOUR[0, 0] != COLOUR).any(-1, keepdims=True),
        {"transparency": tuple(map(int, COLOUR[0, 0]))},
    ),
    "transparent grey": ("png", GREY, in_rgb(GREY * (GREY[1, 1] != GREY)), {"transparency": int(GREY[1, 1])}),
    "transparent deep grey": (
        "png",
        DEEP_GREY,
        by_257(DEEP_GREY * (DEEP_GREY[1, 1] != DEEP_GREY)),
        {"transparency": int(DEEP_GREY[1, 1])},
    ),
}


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


@pytest.mark.parametrize("kind", SHOWN)
def test_what_is_shown(tmp_path, kind):
    suffixes, image, expected, options = SHOWN[kind]
    for suffix in suffixes.split():
        save(tmp_path / f"a.{suffix}", image, **options)
        decoded = decode(tmp_path / f"a.{suffix}")
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, expected, err_msg=suffix)


def test_cmyk_in_jpeg(tmp_path):
    smooth = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "c.jpg", quality=100)
    assert np.abs(decode(tmp_path / "c.jpg").astype(int) - smooth).max() < 20


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


@pytest.mark.parametrize("kind, channels", [(2, [0, 1, 2]), (4, [0, 3]), (6, [0, 1, 2, 3])])
def test_colour_of_16_bits_keeps_the_upper_ones(tmp_path, kind, channels):
    write_deep_png(tmp_path / "a.png", DEEP[..., channels], kind)
    upper = (DEEP[..., channels] // 256).astype(np.uint8)
    colour = in_rgb(upper[..., 0]) if kind == 4 else upper[..., :3]
    expected = colour if kind == 2 else on_black(colour, upper[..., -1])
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_they_say(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation

    def turn(x):
        x = x[:, ::-1] if orientation in (2, 4, 5, 7) else x
        return np.rot90(x, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])

    for suffix in ("png", "tif"):  # as Pillow maps files into memory, uncompressed TIFF images were scrambled
        for kind in ("colour", "grey", "deep grey", "alpha"):
            _, image, expected, _ = SHOWN[kind]
            save(tmp_path / f"a.{suffix}", image, exif=exif)
            np.testing.assert_array_equal(decode(tmp_path / f"a.{suffix}"), turn(expected), err_msg=kind)
    save(tmp_path / "a.jpg", COLOUR, quality=100, subsampling=0, exif=exif)
    assert np.abs(decode(tmp_path / "a.jpg").astype(int) - turn(COLOUR)).max() < 5


# --- refusals ----------------------------------------------------------------------------------------------


def refused(path, message):
    with pytest.raises(FileError, match=message) as caught:
        decode(path)
    assert caught.value.path == path


def tiff(path, pixels, **tags):
    """An uncompressed TIFF of one strip, with tags as Pillow does not write them."""
    about = {256: pixels.shape[1], 257: pixels.shape[0], 259: 1, 262: 1, 273: 0, 277: 1, 278: pixels.shape[0]}
    about |= {258: 16, 279: pixels.nbytes} | {int(tag[1:]): value for tag, value in tags.items()}
    about[273] = 8 + 2 + 12 * len(about) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(about.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(about)) + entries + bytes(4) + pixels.tobytes())


def test_depths_that_are_not_read(tmp_path):
    for numbers in (DEEP_GREY.astype(np.int32), DEEP_GREY.astype(np.float32)):
        save(tmp_path / "a.tif", numbers)
        refused(tmp_path / "a.tif", "have no known white")
    tiff(tmp_path / "right.tif", DEEP_GREY)
    np.testing.assert_array_equal(decode(tmp_path / "right.tif"), by_257(DEEP_GREY))
    tiff(tmp_path / "inverted.tif", DEEP_GREY, t262=0)
    refused(tmp_path / "inverted.tif", "have no known white")
    tiff(tmp_path / "twelve.tif", GREY[:, :6], t258=12, t256=4)
    refused(tmp_path / "twelve.tif", "have no known white")


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
    save(tmp_path / "b.png", RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = bytearray((tmp_path / "b.png").read_bytes())
    for keep in (0.5, 0.1):
        (tmp_path / "cut.png").write_bytes(content[: int(keep * len(content))])
        refused(tmp_path / "cut.png", "is not an image that can be read: ")
    content[200] ^= 255
    (tmp_path / "flipped.png").write_bytes(content)
    refused(tmp_path / "flipped.png", "is not an image that can be read: ")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "is not an image that can be read: Is a directory")


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(31, 17), (17, 31), (40, 40), (16, 50), (9, 100), (5, 5), (16, 16), (33, 16)])
def test_fitted_as_torchvision_does(shape):
    image = Image.fromarray(RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = v2.Compose([v2.Resize(16, antialias=True), v2.CenterCrop(16)])(image)
    np.testing.assert_array_equal(np.asarray(squared(image, 16)), np.asarray(expected))


def test_a_size_is_taken_of_what_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    tall = RANDOM.integers(0, 256, (20, 12, 4), dtype=np.uint8)
    save(tmp_path / "a.png", tall, exif=exif)
    shown = np.rot90(on_black(tall[..., :3], tall[..., 3]), -1)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 8), np.asarray(squared(Image.fromarray(shown), 8)))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("shape", [(96, 128), (135, 97), (81, 263)])
def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(shape, mode, orientation, tmp_path, monkeypatch):
    """Never at less than twice the wanted one, and with hardly another outcome; others as they are."""
    exif, drafts, draft = Image.Exif(), [], JpegImageFile.draft

    def watched(image, *wanted):
        result = draft(image, *wanted)
        drafts.append(min(image.size))
        return result

    monkeypatch.setattr(JpegImageFile, "draft", watched)
    exif[0x112] = orientation
    coarse = Image.fromarray(RANDOM.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(shape[::-1], 3)
    save(tmp_path / "a.jpg", coarse.convert(mode), quality=95, exif=exif)
    for channels in (3, 1):
        found = [decode(tmp_path / "a.jpg", size, channels) for size in (8, 20, 26)]
        monkeypatch.setattr(folders, "REDUCED_FROM", 1000)
        whole = [decode(tmp_path / "a.jpg", size, channels) for size in (8, 20, 26)]
        monkeypatch.undo()
        monkeypatch.setattr(JpegImageFile, "draft", watched)
        for one, other in zip(found, whole, strict=True):
            difference = np.abs(
                one.astype(int) - other
            )  # of a picture of strong edges; of a photograph a level or two
            assert difference.mean() < 1.5 and difference.max() < 15
        np.testing.assert_array_equal(found[-1], whole[-1])
    assert len(drafts) == 4 and all(side >= 2 * size for side, size in zip(drafts, 2 * (8, 20), strict=True))
    save(tmp_path / "a.png", coarse)
    decode(tmp_path / "a.png", 8), decode(tmp_path / "a.jpg")
    assert len(drafts) == 4
