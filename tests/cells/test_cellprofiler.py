"""CellProfiler's measurements are those of numpy and scikit-image."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from outlines import RING
from skimage.measure import regionprops_table

from cellvision.cells import cellprofiler

SHAPE = {  # CellProfiler's name -> scikit-image's
    "Area": "area", "BoundingBoxArea": "area_bbox", "BoundingBoxMaximum_X": "bbox-3", "BoundingBoxMaximum_Y": "bbox-2",
    "BoundingBoxMinimum_X": "bbox-1", "BoundingBoxMinimum_Y": "bbox-0", "Center_X": "centroid-1",
    "Center_Y": "centroid-0", "ConvexArea": "area_convex", "Eccentricity": "eccentricity",
    "EquivalentDiameter": "equivalent_diameter_area", "EulerNumber": "euler_number", "Extent": "extent",
    "MajorAxisLength": "axis_major_length", "MinorAxisLength": "axis_minor_length", "Perimeter": "perimeter",
    "Solidity": "solidity",
}  # fmt: skip


def test_intensities_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (20, 20)) * 7
    pixels = rng.integers(0, 65536, (20, 20, 2)).astype(np.uint16)
    found = cellprofiler.intensities(labels, pixels, ("DNA", "Actin"))
    assert found.index.tolist() == [7, 14, 21]
    for label in found.index:
        for channel, name in enumerate(("DNA", "Actin")):
            values = pixels[labels == label][:, channel].astype(np.float32) / np.float32(65535)
            expected = {
                "MeanIntensity": values.mean(), "StdIntensity": values.std(), "MinIntensity": values.min(),
                "MaxIntensity": values.max(), "IntegratedIntensity": values.sum(), "MedianIntensity": np.median(values),
                "LowerQuartileIntensity": np.quantile(values, 0.25),
                "UpperQuartileIntensity": np.quantile(values, 0.75),
            }  # fmt: skip
            for what, value in expected.items():
                assert found.loc[label, f"Intensity_{what}_{name}"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_shapes_are_those_of_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 4, (25, 31)) * 9 * (rng.random((25, 31)) < 0.8)
    smooth = np.kron(rng.integers(0, 5, (6, 7)), np.ones((5, 6), int))
    for labels in (rough, smooth, RING, np.arange(12).reshape(3, 4)):
        found = cellprofiler.shape_and_place(labels)
        wanted = ["label", "orientation", *dict.fromkeys(name.partition("-")[0] for name in SHAPE.values())]
        known = pd.DataFrame(regionprops_table(labels, properties=wanted)).set_index("label")
        assert found.index.tolist() == known.index.tolist()
        for name, own in SHAPE.items():
            np.testing.assert_allclose(found[f"AreaShape_{name}"], known[own], atol=1e-6, err_msg=name)
        stretched = known["eccentricity"] > 0.1
        turn = found["AreaShape_Orientation"] - np.degrees(known["orientation"])
        np.testing.assert_allclose((turn[stretched] + 90) % 180, 90, atol=1e-6)


def test_shapes_have_known_measures() -> None:
    labels = np.zeros((30, 40), int)
    labels[5:15, 10:30] = 3
    labels[20, 5] = 9
    found = cellprofiler.shape_and_place(labels)
    box = found.loc[3]
    known = {
        "Area": 200, "Center_X": 19.5, "Center_Y": 9.5, "BoundingBoxMinimum_X": 10, "BoundingBoxMaximum_X": 30,
        "BoundingBoxMinimum_Y": 5, "BoundingBoxMaximum_Y": 15, "Solidity": 1, "Extent": 1, "EulerNumber": 1,
        "MajorAxisLength": 20 * 2 / 3**0.5, "MinorAxisLength": 10 * 2 / 3**0.5, "Orientation": 90,
        "EquivalentDiameter": (800 / np.pi) ** 0.5,
    }  # fmt: skip
    for name, value in known.items():
        assert abs(box[f"AreaShape_{name}"]) == pytest.approx(value, rel=0.01), name
    assert (found["Location_Center_X"] == found["AreaShape_Center_X"]).all()
    assert np.isnan(found.loc[9, "AreaShape_FormFactor"]), "a single pixel has no perimeter"
