"""Labels have the same colors everywhere."""

from monai_pdddpm.visualize.colors import PALETTE, label_colors, rgb


def test_colors_follow_the_rank_of_the_label():
    assert label_colors([1, 3]) == {1: "#E69F00", 3: "#56B4E9"}
    many = label_colors(range(1, 30))
    assert len(many) == 29
    assert many[8] == PALETTE[0]


def test_rgb_by_hand():
    assert rgb("#E69F00") == (230, 159, 0)
