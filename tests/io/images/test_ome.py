"""What OME metadata and samples say of channels: planes of several files, names, significant bits, stains and alpha."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from corpus import cells, rgba, stack, tiff
from numpy.typing import NDArray

from cellvision.io import geojson
from cellvision.io.images import ome
from cellvision.io.images.reader import Image, ImageError, Reason, read_image

OWN, OTHER = "urn:uuid:own", "urn:uuid:other"


def plane(ifd: int, c: int = 0, z: int = 0, t: int = 0, uuid: str = OWN) -> str:
    return (
        f'<TiffData FirstC="{c}" FirstZ="{z}" FirstT="{t}" IFD="{ifd}" PlaneCount="1">'
        f'<UUID FileName="x.ome.tif">{uuid}</UUID></TiffData>'
    )


def metadata(planes: list[str], names: tuple[str, ...] = ("DAPI", "GFP &amp; YFP"), bits: int = 16) -> str:
    channels = "".join(
        f'<Channel ID="Channel:0:{n}" Name="{name}" SamplesPerPixel="1"/>' for n, name in enumerate(names)
    )
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{OWN}"><Image ID='
        f'"Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SignificantBits="{bits}" SizeX="80" '
        f'SizeY="64" SizeC="2" SizeZ="2" SizeT="3">{channels}{"".join(planes)}</Pixels></Image></OME>'
    )


def one_of_several(folder: Path, pages: NDArray[Any], description: str) -> Path:
    """A file of an OME data set in several files, (pages, H, W)."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for number, page in enumerate(pages):
            writer.write(page, metadata=None, description=description if number == 0 else None)
    (folder / "a.ome.tif").write_bytes(buffer.getvalue())
    return folder / "a.ome.tif"


FOREIGN = plane(0, c=1, uuid=OTHER)
OWN_PLANES: dict[str, tuple[list[str], dict[str, Any], list[list[int]], tuple[str, ...]]] = {  # pages of each channel
    "one stain": ([plane(0, c=1), plane(0, c=0, uuid=OTHER)], {}, [[0]], ("GFP & YFP",)),
    "times": ([plane(0, t=0), plane(1, t=1), plane(2, t=2), FOREIGN], {}, [[0]], ("DAPI",)),
    "times, all": ([plane(0, t=0), plane(1, t=1), FOREIGN], {"frames": "max"}, [[0, 1]], ("DAPI",)),
    "stains": ([plane(0, c=0), plane(1, c=1), plane(9, t=1, uuid=OTHER)], {}, [[0], [1]], ("DAPI", "GFP & YFP")),
    "stains out of order": ([plane(1, c=0), plane(0, c=1), FOREIGN], {}, [[1], [0]], ("DAPI", "GFP & YFP")),
    "depth": ([plane(0, z=0), plane(1, z=1), FOREIGN], {}, [[0, 1]], ("DAPI",)),
    "depth, first": ([plane(0, z=0), plane(1, z=1), FOREIGN], {"frames": "first"}, [[0]], ("DAPI",)),
    "chosen by name": ([plane(0, c=0), plane(1, c=1), FOREIGN], {"channels": ["gfp & yfp"]}, [[1]], ("GFP & YFP",)),
}


@pytest.mark.parametrize(("planes", "options", "pages", "names"), OWN_PLANES.values(), ids=OWN_PLANES)
def test_of_an_image_in_several_files_this_files_planes_are_read_and_no_maximum_over_stains_or_times(
    tmp_path: Path, planes: list[str], options: dict[str, Any], pages: list[list[int]], names: tuple[str, ...]
) -> None:
    array = stack(3)
    image = read_image(one_of_several(tmp_path, array, metadata(planes)), **options)
    np.testing.assert_array_equal(image.pixels, np.stack([array[chosen].max(0) for chosen in pages], axis=-1))
    assert image.channel_names == names
    assert any(note.startswith("one of several files of an image") for note in image.notes)


@pytest.mark.parametrize(("planes", "reason", "said"), [
    ([plane(0, uuid=OTHER)], Reason.E_CHANNELS, "does not tell what its 3 pages are"),
    ([plane(0, t=0), plane(7, t=1), FOREIGN], Reason.E_TRUNCATED, "missing"),
])  # fmt: skip
def test_pages_that_nobody_describes_are_not_mixed(
    tmp_path: Path, planes: list[str], reason: Reason, said: str
) -> None:
    path = one_of_several(tmp_path, stack(3), metadata(planes))
    with pytest.raises(ImageError, match=said) as error:
        read_image(path)
    assert error.value.reason is reason
    if reason is Reason.E_CHANNELS:
        np.testing.assert_array_equal(read_image(path, frames="max").pixels[..., 0], stack(3).max(0))


def named(folder: Path, **more: Any) -> Path:
    names = {"Channel": {"Name": ["DAPI", "GFP"]}}
    (folder / "a.ome.tif").write_bytes(tiff(stack(2), ome=True, metadata={"axes": "CYX", **names, **more}))
    return folder / "a.ome.tif"


@pytest.mark.parametrize(
    ("channels", "order"), [(("GFP",), [1]), (("gfp", 0), [1, 0]), ((0, 1), [0, 1]), (None, [0, 1])]
)
def test_channels_have_the_names_of_the_file_and_are_chosen_by_them(
    tmp_path: Path, channels: tuple[int | str, ...] | None, order: list[int]
) -> None:
    image = read_image(named(tmp_path), channels=channels)
    assert image.channel_names == tuple(("DAPI", "GFP")[number] for number in order)
    np.testing.assert_array_equal(image.pixels, np.moveaxis(stack(2), 0, -1)[..., order])


@pytest.mark.parametrize(("channel", "said"), [("RFP", "its channels are DAPI, GFP"), (5, "has 0 to 1")])
def test_a_channel_that_is_not_there_is_one_line(tmp_path: Path, channel: int | str, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_image(named(tmp_path), channels=(channel,))


def test_names_that_nobody_gave_cannot_be_asked_for(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack(2), metadata={"axes": "CYX"}, imagej=True)
    with pytest.raises(ImageError, match="does not name its channels"):
        read_image(tmp_path / "a.tif", channels=("DAPI",))


@pytest.mark.parametrize(("bits", "size"), [(12, 4095), (14, 16383), (16, None)])
def test_significant_bits_are_full_scale(tmp_path: Path, bits: int, size: float | None) -> None:
    assert read_image(named(tmp_path, SignificantBits=bits)).full_scale == size


@pytest.mark.parametrize("names", [("DAPI", ""), ("DAPI", "dapi")])
def test_names_that_do_not_tell_channels_apart_are_none(names: tuple[str, ...]) -> None:
    assert ome.read(metadata([plane(0)], names)).names == ()


@pytest.mark.parametrize("text", ["", "<OME>", "<Pixels>", '<Pixels SizeC="x"><TiffData IFD="y"/></Pixels>'])
def test_broken_metadata_tell_nothing(text: str) -> None:
    assert ome.read(text) == ome.Facts((), None, ())


def four(last: NDArray[Any], dtype: Any = np.uint16) -> bytes:
    """A TIFF of (H, W, 4) whose last samples are declared alpha."""
    array = np.concatenate([np.moveaxis(stack(3, dtype, 250), 0, -1), last[..., None].astype(dtype)], axis=-1)
    return tiff(array, photometric="rgb", extrasamples=["unassalpha"])


@pytest.mark.parametrize(("last", "channels"), [
    (cells(3000, np.uint16, 9), 4), (np.full((64, 80), 65535), 3), (np.zeros((64, 80)), 3),
    ((cells(255) > 60) * 65535, 3), ((cells(255) > 60) * 2000, 4),
])  # fmt: skip
def test_four_stains_are_no_alpha_and_alpha_is_no_stain(tmp_path: Path, last: NDArray[Any], channels: int) -> None:
    (tmp_path / "a.tif").write_bytes(four(last))
    image: Image = read_image(tmp_path / "a.tif")
    assert image.pixels.shape[-1] == channels
    if channels == 4:
        np.testing.assert_array_equal(image.pixels[..., 3], last)
        assert any("called alpha but hold intensities" in note for note in image.notes)


def test_alpha_of_a_tiff_still_hides_colours(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(rgba(), photometric="rgb", extrasamples=["unassalpha"]))
    assert read_image(tmp_path / "a.tif").pixels.shape[-1] == 3


LABELS = np.zeros((64, 80), np.int64)
LABELS[5:20, 5:20], LABELS[30:50, 30:60] = 3, 7


@pytest.mark.parametrize(
    "dtype", ["int64", "uint64", "int32", "uint32", "uint16", "int16", "uint8", "float32", "float64"]
)
def test_label_maps_of_any_depth_are_read(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LABELS.astype(dtype))
    np.testing.assert_array_equal(geojson.read_labels(tmp_path / "a.tif", (64, 80)).labels, LABELS)


def test_labels_beyond_32_bits_are_refused_and_images_of_64_bits_are_none(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LABELS * 2**40)
    with pytest.raises(ImageError, match="must fit into 32 bits"):
        geojson.read_labels(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="int64"):
        read_image(tmp_path / "a.tif")


def test_labels_under_a_palette_are_their_numbers(tmp_path: Path) -> None:
    import PIL.Image

    picture = PIL.Image.fromarray(LABELS.astype(np.uint8)).convert("P")
    picture.putdata(LABELS.ravel().tolist())
    picture.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    picture.save(tmp_path / "a.png")
    table = np.random.default_rng(0).integers(0, 65535, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", LABELS.astype(np.uint8), photometric="palette", colormap=table)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(geojson.read_labels(tmp_path / name).labels, LABELS)
