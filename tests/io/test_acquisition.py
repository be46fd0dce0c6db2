"""What names of image files say: the conventions of microscopes, and names that only look like them."""

from __future__ import annotations

import pytest

from cellvision.io.acquisition import parse, parse_all

GUID = "C61B0D2F-0B5B-4B3C-8B8E-0F1E2D3C4B5A"
NAMES = """
field0_t00.tif | field0 | site 0, t 00
pos1_t003.tif | pos1 | site 1, t 003
pos2_z01.tif | pos2 | site 2, z 01
exp_T001.png | exp | t 001
exp-time12.png | exp | t 12
cells frame_3.png | cells | t 3
cells_z3.tif | cells | z 3
cells_w1.TIF | cells | channel 1
cells_wv2.TIF | cells | channel 2
Series001_z003_ch00.tif | Series001 | channel 00, z 003
Position001_t00_ch01.tif | Position001 | site 001, channel 01, t 00
jw-1h 1_c5.TIF | jw-1h 1 | channel 5
slide3_s1.tif | slide3_s1 | site 1
a-f01.tif | a-f01 | site 01
Site 1.tif | Site 1 | site 1
exp Site 1 t2.tif | exp Site 1 | site 1, t 2
img_channel000_position001_time000000000_z000.tif | img_position001 | site 001, channel 000, z 000, t 000000000
Pos0/img_000000000_DAPI_000.tif | Pos0/img | site 0, channel DAPI, z 000, t 000000000
A - 1(fld 1 wv DAPI - DAPI).tif | A-1_1 | well A-1, site 1, channel DAPI - DAPI
B - 02(fld 3 wv Blue - FITC z 2 time 3).tif | B-02_3 | well B-02, site 3, channel Blue - FITC, z 2, t 3
H - 12(fld 09).tif | H-12_09 | well H-12, site 09
r01c01f01p01-ch1sk1fk1fl1.tiff | r01c01f01-fk1fl1 | well r01c01, site 01, channel 1, z 01, t 1
r02c11f03p02-ch2sk4fk1fl1.tiff | r02c11f03-fk1fl1 | well r02c11, site 03, channel 2, z 02, t 4
Week1_150607_B02_s1_w1{GUID}.tif | Week1_150607_B02_s1 | plate Week1_150607, well B02, site 1, channel 1
IXMtest_A01_s1_w2{GUID}.tif | IXMtest_A01_s1 | plate IXMtest, well A01, site 1, channel 2
mcf-z-03212011_a01_s1_w1{guid}.tif | mcf-z-03212011_a01_s1 | plate mcf-z-03212011, well a01, site 1, channel 1
p_#6_B02_T0001F001L01A01Z01C01.tif | p_#6_B02_F001L01 | plate p_#6, well B02, site 001, channel 01, z 01, t 0001
plate7_C03_T0001F004L01A02Z01C02.png | plate7_C03_F004L01 | plate 7, well C03, site 004, channel 02, z 01, t 0001
AS_09125_0501_A03f00d0.DIB | AS_09125_0501_A03f00 | plate AS_09125_0501, well A03, site 00, channel 0
Channel1-01-A-01.BMP | 01-A-01 | plate 01, well A-01, channel 1
TimePoint_1/plate_B02_s1_w1.TIF | plate_B02_s1 | plate plate, well B02, site 1, channel 1, t 1
TimePoint_2/ZStep_1/x_B02_s1_w1.TIF | x_B02_s1 | plate x, well B02, site 1, channel 1, z 1, t 2
--W00001--P00002--Z00000--T00003--DAPI.tif | 00001_00002 | well 00001, site 00002, channel DAPI, z 00000, t 00003
VID1708_A1_1_00d04h00m.tif | VID1708_A1_1 | plate VID1708, well A1, site 1, t 00d04h00m
VID17_B12_2_2020y06m03d_08h00m.tif | VID17_B12_2 | plate VID17, well B12, site 2, t 2020y06m03d_08h00m
A1_01_1_1_DAPI_001.tif | A1_1 | well A1, site 1, channel DAPI, t 001
G10_02_2_14_GFP_003.tif | G10_14 | well G10, site 14, channel GFP, t 003
nd001xy01c1t001.tif | nd001xy01 | site 01, channel 1, t 001
exp_xy02c2.tif | exp_xy02 | site 02, channel 2
C1-sample3.tif | sample3 | channel 1
sample1_DAPI.tif | sample1 | channel DAPI
sample1 GFP.ome.tif | sample1 | channel GFP
img_b0t0z0c1x0-512y0-512.tif | img_b0x0-512y0-512 | channel 1, z 0, t 0
name_t01_z02_c0_ORG.tif | name_ORG | channel 0, z 02, t 01
plate2_C03_s1_w1.tif | plate2_C03_s1 | plate 2, well C03, site 1, channel 1
plate2_F03_s4_w2.tif | plate2_F03_s4 | plate 2, well F03, site 4, channel 2
PlateA/C03_s1.tif | PlateA/C03_s1 | plate PlateA, well C03, site 1
frame00_left.tif | left | t 00
""".strip().format(GUID=GUID, guid=GUID.lower())
PLAIN = [
    "neuron_01.tif", "T98G_1.tif", "C2C12_01.tif", "MCF7_3.tif", "IMG_0001.jpg", "patient_12_left.png",
    "2021-03-01_1.tif", "20210301 2.tif", "P1C3.tif", "S1P3_a.tif", "3T3_01.tif", "U2OS_2.tif", "A549_1.tif",
    "sample_t.tif", "wt1.tif", "x20_1.tif", "slice_3.tif", "Figure_23_04_04.jpg", "BloodImage_00301.jpg",
    "Polyp12_12699_39273_02.tif", "e1_r07c00.tif", "Megaloblastic anemia_6.jpg", "sampleA0016.jpg", "HeLa-2.png",
    "t.png", "channel.png", "w166_rest.png", "day2_rep3.tif", "1.tif", "0001-0002.tif", "", ".tif", "a/b/7.png",
]  # fmt: skip


@pytest.mark.parametrize("line", NAMES.splitlines(), ids=lambda line: line.split(" | ")[0])
def test_names_of_microscopes_are_understood(line: str) -> None:
    path, field, axes = (part.strip() for part in line.split(" | "))
    name = parse(path)
    assert name.field == field
    assert ", ".join(f"{axis} {value}" for axis, value in name.axes.items()) == axes


@pytest.mark.parametrize("path", PLAIN)
def test_plain_numbers_and_cell_lines_say_nothing(path: str) -> None:
    assert parse(path).axes == {}


def test_what_may_be_a_channel_is_a_well_among_wells() -> None:
    assert parse("x_C1.tif").axes == {"channel": "1"}
    assert [name.axes["well"] for name in parse_all([f"x_{row}{n}.tif" for row in "ABCDEF" for n in (1, 2)])] == [
        f"{row}{n}" for row in "ABCDEF" for n in (1, 2)
    ]
