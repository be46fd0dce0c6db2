"""The image reader: known pixels for good files, one reason for each odd one, ImageError alone for broken ones."""

import contextlib
import logging
import os
import struct
import warnings
from pathlib import Path

import corpus
import imagecodecs
import numpy as np
import pytest
from corpus import HEIGHT, WIDTH, cells, colour, stack, tiff

from cellvision.io.images import decode, reader
from cellvision.io.images.intensity import intensity_range, pixel_hash, to_uint8
from cellvision.io.images.pixels import orient
from cellvision.io.images.reader import ImageError, Limits, Reason, read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    corpus.write_corpus(path)
    return path


@pytest.fixture
def read(tmp_path):
    def write_and_read(data, name="image.tif", **options):
        path = tmp_path / name
        path.write_bytes(data)
        return read_image(path, **options)

    return write_and_read


def reason_of(path, **options):
    try:
        picture = read_image(path, **options)
    except ImageError as error:
        return str(error.reason)
    assert picture.pixels.ndim == 3
    assert picture.dtype == picture.pixels.dtype.name
    assert picture.pixels.dtype.isnative
    return "OK_NOTE" if picture.notes else "OK"


EXPECTED = {**dict.fromkeys(corpus.GOOD, "OK"), **{name: reason for name, (reason, _) in corpus.ODD.items()}}


@pytest.mark.parametrize(("name", "reason"), EXPECTED.items())
def test_every_odd_file_has_its_reason(folder, name, reason):
    assert reason_of(folder / name) == reason


def decode_here(path):
    """Decode without the process of its own."""
    data = path.read_bytes()
    return decode.decode_bytes(data, reader._sniff(data), "auto", None, Limits())


def test_bombs_are_refused_without_memory(folder):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("bomb_20k.png", "bomb_10k.png", "bomb_deflate.tif", "bomb_ztxt.png", "bomb_iccp.png"):
        with contextlib.suppress(ImageError):
            decode_here(folder / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


PIXELS = {
    "good_grey.png": lambda: cells()[..., None],
    "good_rgb.png": colour,
    "good_g16.tif": lambda: cells(4095, np.uint16)[..., None],
    "good_f32.tif": lambda: cells(1000, np.float32)[..., None],
    "f64.tif": lambda: cells(1000, np.float64)[..., None],
    "i32.tif": lambda: cells(100_000, np.int32)[..., None] - 50_000,
    "u32.tif": lambda: cells(4_000_000_000, np.uint32)[..., None],
    "g16.png": lambda: cells(4095, np.uint16)[..., None],
    "modei.pgm": lambda: cells(4095, np.uint16)[..., None],
    "modef.tif": lambda: cells(1000, np.float32)[..., None],
    "rgb16.png": lambda: colour(np.uint16, 60000),
    "stack_z5.tif": lambda: stack().max(axis=0)[..., None],
    "stack_virtual.tif": lambda: stack().max(axis=0)[..., None],
    "stack_plain.tif": lambda: stack().max(axis=0)[..., None],
    "stack_t5.tif": lambda: stack()[0][..., None],
    "ch2.ome.tif": lambda: np.moveaxis(stack(2), 0, -1),
    "ch5.ome.tif": lambda: np.moveaxis(stack(5), 0, -1),
    "rgb_planar.tif": colour,
    "miniswhite.tif": lambda: cells()[..., None],
    "bilevel.tif": lambda: (cells() > 100)[..., None] * np.uint8(255),
    "bilevel.png": lambda: (cells() > 100)[..., None] * np.uint8(255),
    "rgba_opaque.png": lambda: corpus.rgba(opaque=True)[..., :3],
    "pal_grey.png": lambda: np.array([0, 90, 180, 255], np.uint8)[cells() // 64][..., None],
    "anim.png": colour,
    "anim.webp": colour,
    "png_as.jpg": lambda: cells()[..., None],
    "ifdloop.tif": lambda: cells()[..., None],
    "bomb_ztxt.png": lambda: cells()[..., None],
    "bomb_iccp.png": lambda: cells()[..., None],
}


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_exactly_those_written(folder, name):
    picture = read_image(folder / name)
    expected = PIXELS[name]()
    assert picture.dtype == expected.dtype.name
    np.testing.assert_array_equal(picture.pixels, expected)


@pytest.mark.parametrize("name", ["rgba.png", "rgba.tif", "rgba16.png"])
def test_hidden_colours_become_the_border_colour(folder, name):
    pixels = read_image(folder / name).pixels
    scale = 257 if name == "rgba16.png" else 1
    expected = np.full((HEIGHT, WIDTH, 3), 255, np.uint16)
    expected[20:40, 20:40] = (255, 0, 0)
    np.testing.assert_array_equal(pixels, expected * scale)


def test_half_transparent_pixels_are_mixed(read):
    array = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    array[..., :3] = 200
    array[10, 10] = (0, 100, 200, 51)  # one fifth opaque
    assert read(corpus.pillow(array, "PNG"), "a.png").pixels[10, 10].tolist() == [160, 180, 200]


def test_transparent_palette_entry_is_not_revealed(folder):
    pixels = read_image(folder / "pal_trans.png").pixels
    hidden = cells() // 64 == 1
    assert (pixels[hidden] == 255).all()
    assert pixels[cells() // 64 == 2][0].tolist() == [0, 200, 0]


def test_orientation_is_applied(folder):
    plain, turned = read_image(folder / "good.jpg"), read_image(folder / "exif6.jpg")
    np.testing.assert_array_equal(turned.pixels, np.rot90(plain.pixels, -1))
    assert turned.notes == ("orientation tag 6 applied",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_agrees_with_pillow(orientation):
    from PIL import Image, ImageOps

    picture = Image.fromarray(colour())
    picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(orient(colour(), orientation, []), expected)


def test_cmyk_colours_are_close(folder):
    difference = read_image(folder / "cmyk.jpg").pixels.astype(int) - colour()
    assert np.abs(difference).mean() < 25


def test_frames_policy(read):
    planes = stack()
    data = tiff(planes, imagej=True, metadata={"axes": "TYX"})
    for frames, expected in (("first", planes[0]), ("max", planes.max(0)), ("mean", np.rint(planes.mean(0)))):
        np.testing.assert_array_equal(read(data, frames=frames).pixels[..., 0], expected)


def test_depth_is_reduced_per_channel(read):
    array = stack(6).reshape(2, 3, HEIGHT, WIDTH)  # Z, C
    data = tiff(array, ome=True, metadata={"axes": "ZCYX", "PhysicalSizeX": 325, "PhysicalSizeXUnit": "nm"})
    picture = read(data)
    np.testing.assert_array_equal(picture.pixels, np.moveaxis(array.max(axis=0), 0, -1))
    assert picture.pixel_size_um == pytest.approx(0.325)


def test_animation_can_be_projected(folder):
    frames = [colour(), 255 - colour(), colour() // 2]
    np.testing.assert_array_equal(read_image(folder / "anim.png", frames="max").pixels, np.max(frames, axis=0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"imagej": True, "resolution": (2, 2), "metadata": {"axes": "YX", "unit": "um"}}, 0.5),
        ({"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (25_400, 25_400), "resolutionunit": "INCH"}, 1.0),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({}, None),
    ],
)
def test_pixel_size_in_um(read, options, expected):
    assert read(tiff(cells(), **options)).pixel_size_um == (pytest.approx(expected) if expected else None)


def test_channels_are_picked_in_the_order_asked(folder):
    five = np.moveaxis(stack(5), 0, -1)
    np.testing.assert_array_equal(read_image(folder / "ch5.ome.tif", channels=(4, 1)).pixels, five[..., [4, 1]])
    with pytest.raises(ImageError, match="0 to 4") as error:
        read_image(folder / "ch5.ome.tif", channels=(5,))
    assert error.value.reason is Reason.E_CHANNELS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_samples_get_the_median_of_their_neighbours(read, value):
    array = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    array[30, 40] = value
    expected = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    neighbours = np.delete(expected[28:33, 38:43].ravel(), 12)
    expected[30, 40] = np.median(neighbours)
    np.testing.assert_array_equal(read(tiff(array)).pixels[..., 0], expected)


def test_a_hole_wider_than_the_window_is_filled(read):
    array = np.full((HEIGHT, WIDTH), 7, np.float32)
    array[:12, :12] = np.nan
    assert (read(tiff(array)).pixels == 7).all()


def test_display_table_keeps_intensities_and_colour_table_is_applied(read):
    green = np.zeros((3, 256), np.uint16)
    green[1] = np.arange(256) * 257
    shown = read(tiff(cells(), photometric="palette", colormap=green))
    np.testing.assert_array_equal(shown.pixels, cells()[..., None])
    table = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    labelled = read(tiff(cells(), photometric="palette", colormap=table))
    np.testing.assert_array_equal(labelled.pixels, (table >> 8).T[cells()])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (cells() > 100, np.where(cells() > 100, 0, 255)),
        (cells(4095, np.uint16), 65535 - cells(4095, np.uint16)),
        (cells(1000, np.float32), -cells(1000, np.float32)),
    ],
)
def test_white_is_zero_is_inverted_for_every_type(read, array, expected):
    np.testing.assert_array_equal(read(tiff(array, photometric="miniswhite")).pixels[..., 0], expected)


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"bigtiff": True}, {"tile": (16, 16), "compression": "lzw"}])
def test_tiff_flavours_give_the_same_pixels(read, options):
    np.testing.assert_array_equal(read(tiff(cells(4095, np.uint16), **options)).pixels[..., 0], cells(4095, np.uint16))


def test_sixteen_bit_colour_jpeg2000_is_not_cut(read):
    array = colour(np.uint16, 60000)
    data = imagecodecs.jpeg2k_encode(array, reversible=True, level=0)
    np.testing.assert_array_equal(read(data, "a.jp2").pixels, array)


TAGS = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 277: 1, 278: HEIGHT}
OME = (
    '<?xml version="1.0"?><OME xmlns="x"><Image ID="Image:0"><Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="80"'
    ' SizeY="64" SizeC="1" SizeZ="1" SizeT="1"><Channel SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/>'
    "</Pixels></Image></OME>"
)


def huge_jpeg():
    data = bytearray(corpus.pillow(colour(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: corpus.raw_tiff({**TAGS, 259: 8}, corpus.zeros_deflated(200_000_000)), "E_CORRUPT"),
        (lambda: corpus.raw_tiff({**TAGS, 277: 250_000}, cells().tobytes()), "E_CHANNELS"),
        (lambda: corpus.raw_tiff({**TAGS, 259: 7, 262: 6, 277: 3}, huge_jpeg()), "E_CORRUPT"),
        (lambda: corpus.raw_tiff({**TAGS, 262: 32803}, cells().tobytes()), "E_CHANNELS"),
        (lambda: corpus.raw_tiff(TAGS, cells().tobytes()[:3000]), "E_TRUNCATED"),
        (lambda: tiff(cells(), metadata=None, description=OME.replace('Count="1"', 'Count="999999999"')), "E_CORRUPT"),
        (lambda: tiff(cells(), metadata=None, description=OME.replace('T="1"', 'T="900000"')), "E_TRUNCATED"),
        (lambda: tiff(cells(), metadata=None, description='{"shape": [1000000000, 64, 80]}'), "E_TRUNCATED"),
        (lambda: corpus.virtual_stack()[:3000], "E_TRUNCATED"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, make, reason):
    path = tmp_path / "lie.tif"
    path.write_bytes(make())
    assert reason_of(path) == reason


def test_ome_metadata_opens_no_other_file(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.tif").write_bytes(tiff(255 - cells()))
    uuid = '"1"><UUID FileName="other.tif">urn:uuid:1</UUID></TiffData>'
    picture = read(tiff(cells(), metadata=None, description=OME.replace('"1"/></Pix', f"{uuid}</Pix")), "image.tif")
    np.testing.assert_array_equal(picture.pixels[..., 0], cells())


def test_messages_are_one_line(folder):
    for name in corpus.ODD:
        if reason_of(folder / name).startswith("E_"):
            with pytest.raises(ImageError, match=r"\A[^\n]{20,300}\Z"):
                read_image(folder / name)


def test_limits_are_the_callers(folder):
    small = Limits(max_megapixels=0.005)
    assert reason_of(folder / "good_grey.png", limits=small) == "E_TOO_LARGE"
    assert reason_of(folder / "good_g16.tif", limits=small) == "E_TOO_LARGE"
    assert reason_of(folder / "good_f32.tif", limits=Limits(max_file_mb=0.01)) == "E_TOO_LARGE"
    assert reason_of(folder / "f32_nan_many.tif", limits=Limits(max_nan_fraction=0.3)) == "OK_NOTE"
    assert reason_of(folder / "one_pixel.png", limits=Limits(min_side=1)) == "OK"


def test_a_limit_above_pillows_own_is_obeyed(tmp_path):
    path = tmp_path / "wide.png"
    path.write_bytes(corpus.png_bomb(14_000))  # 196 MP: Pillow alone refuses 179
    with pytest.raises(ImageError, match="need 784 MB"):
        read_image(path, limits=Limits(max_megapixels=200, max_decoded_mb=500))


def test_special_files_are_refused_without_hanging(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    for path in (tmp_path / "fifo.png", Path("/dev/zero"), tmp_path):
        assert reason_of(path) in ("E_UNSAFE", "E_IO")
    assert reason_of(tmp_path / "absent.png") == "E_IO"


def test_a_file_that_changes_is_read_again_then_refused(tmp_path, monkeypatch):
    path = tmp_path / "live.png"
    path.write_bytes(corpus.pillow(cells(), "PNG"))
    real = os.fstat
    changes: list[int] = []

    def fstat(descriptor):
        changes.append(len(changes))
        os.utime(path, ns=(len(changes), len(changes)) if len(changes) <= 4 * limit else (0, 0))
        return real(descriptor)

    limit = 1
    monkeypatch.setattr("cellvision.io.images.reader.os.fstat", fstat)
    assert reason_of(path) == "E_CHANGED"
    limit, changes = 0, []
    assert reason_of(path) == "OK"


def test_sha256_is_of_the_file(folder):
    import hashlib

    data = (folder / "good_rgb.png").read_bytes()
    assert read_image(folder / "good_rgb.png").sha256 == hashlib.sha256(data).hexdigest()


def test_libraries_stay_silent(folder, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in EXPECTED:
            with contextlib.suppress(ImageError):
                decode_here(folder / name)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"P5 "]
)
def test_bare_magic_is_an_image_error(tmp_path, data):
    path = tmp_path / "bare"
    path.write_bytes(data)
    assert reason_of(path) in ("E_TRUNCATED", "E_CORRUPT")


def test_random_damage_ends_in_an_image_or_an_image_error(folder, tmp_path):
    rng = np.random.default_rng(7)
    files = [path for path in sorted(folder.iterdir()) if 0 < path.stat().st_size < 60_000]
    path, outcomes = tmp_path / "damaged", set()
    for _ in range(300):
        data = bytearray(files[rng.integers(len(files))].read_bytes())
        for _ in range(rng.integers(1, 6)):
            reach = len(data) if rng.random() < 0.5 else min(len(data), 400)
            at = int(rng.integers(reach))
            data[at if rng.random() < 0.7 else len(data) - 1 - at] = int(rng.integers(256))
        path.write_bytes(data)
        outcomes.add(reason_of(path))
    assert {"OK", "E_CORRUPT", "E_TRUNCATED"} <= outcomes
    assert "E_INTERNAL" not in outcomes


def test_every_cut_of_a_file_is_an_error(folder, tmp_path):
    path = tmp_path / "cut"
    for name in ("good_grey.png", "good.jpg", "good_g16.tif", "stack_z5.tif", "ch2.ome.tif"):
        data = (folder / name).read_bytes()
        for size in range(1, len(data) - 1, max(1, len(data) // 23)):
            path.write_bytes(data[:size])
            if reason_of(path) in ("OK", "OK_NOTE"):  # what is missing is not pixels
                np.testing.assert_array_equal(read_image(path).pixels, read_image(folder / name).pixels)
            else:
                assert reason_of(path) in ("E_TRUNCATED", "E_NOT_IMAGE", "E_CORRUPT"), (name, size)


def test_eight_bit_pixels_are_taken_as_they_are():
    assert intensity_range(colour()) == ((0.0, 255.0),) * 3
    assert to_uint8(colour(), ((5.0, 9.0),) * 3) is not None
    np.testing.assert_array_equal(to_uint8(colour(), intensity_range(colour())), colour())


def test_ranges_map_linearly_per_channel():
    ramp = np.linspace(0, 1000, 1001).round().astype(np.uint16).reshape(7, 143, 1)
    pixels = np.concatenate([ramp, ramp * 10], axis=-1)
    ranges = intensity_range(pixels, (0, 100))
    assert ranges == ((0, 1000), (0, 10_000))
    mapped = to_uint8(pixels, ranges)
    np.testing.assert_array_equal(mapped[..., 0], np.rint(ramp[..., 0] * 0.255).astype(np.uint8))
    np.testing.assert_array_equal(mapped[..., 0], mapped[..., 1])
    assert to_uint8(pixels, ((200, 800), (200, 800)))[..., 0].ravel()[[0, 200, 800, 1000]].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("value", [0, 777, 65535])
def test_constant_images_become_zeros(value):
    pixels = np.full((9, 9, 1), value, np.uint16)
    assert intensity_range(pixels) == ((value, value),)
    with np.errstate(all="raise"):
        assert not to_uint8(pixels, intensity_range(pixels)).any()


def test_few_bright_pixels_do_not_collapse_the_range():
    pixels = np.zeros((100, 100, 1), np.uint16)
    pixels[0, 0] = 4000
    assert intensity_range(pixels) == ((0, 4000),)


def test_the_whole_float_range_does_not_overflow():
    pixels = np.array([-1.7e308, 0, 1.7e308]).reshape(1, 3, 1)
    with np.errstate(all="raise"):
        assert to_uint8(pixels, ((-1.7e308, 1.7e308),)).ravel().tolist() == [0, 128, 255]


def test_pixel_hash_knows_content_not_encoding(folder):
    def hash_of(name):
        return pixel_hash(read_image(folder / name).pixels)

    assert hash_of("g16.png") == hash_of("good_g16.tif") == hash_of("modei.pgm")
    assert hash_of("png_as.jpg") == hash_of("good_grey.png") == hash_of("miniswhite.tif")
    assert hash_of("good_f32.tif") == hash_of("f64.tif") != hash_of("good_g16.tif")
    grey = cells()[..., None]
    assert pixel_hash(grey) == pixel_hash(np.repeat(grey, 3, axis=-1)) == pixel_hash(grey.astype(np.int32))
    assert pixel_hash(grey) != pixel_hash(np.rot90(grey)) != pixel_hash(grey.reshape(WIDTH, HEIGHT, 1))
    changed = grey.copy()
    changed[3, 3] ^= 1
    assert pixel_hash(grey) != pixel_hash(changed)
