import math

import torch
from pdddpm_label.levels import EntropyLevelsd, entropy_levels, level_names


def test_levels_are_shares_of_the_largest_entropy():
    entropy = torch.tensor([0.0, 0.19, 0.21, 0.41, 0.61, 0.81, 1.0]) * math.log(3)
    assert entropy_levels(entropy, 3).tolist() == [0, 0, 1, 2, 3, 4, 4]
    assert entropy_levels(entropy, 3).dtype == torch.uint8


def test_names_count_from_one():
    assert level_names() == {f"entropy_from_{20 * value}_percent": value for value in (1, 2, 3, 4)}


def test_transform_replaces_the_segmentation():
    data = {"pred": torch.ones(1, 2, 2, 2), "entropy": torch.full((1, 2, 2, 2), math.log(2) / 2)}
    levels = EntropyLevelsd("pred", num_classes=2)(data)["pred"]
    assert levels.tolist() == torch.full((1, 2, 2, 2), 2).tolist()
