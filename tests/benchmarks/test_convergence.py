"""The benchmark of convergence: its plain block, and a run on a tiny budget."""

import json

import pytest
import torch

from benchmarks.trust.convergence import PAPER, RESIDUAL, PlainBlock, main


def test_a_plain_block_adds_its_convolutions_once_whatever_the_solver():
    block = PlainBlock(3, 8, 4)
    z, embedding = torch.randn(2, 8, 4, 4, 4), torch.randn(2, 4)
    assert torch.equal(block(z, embedding, "midpoint", 1), z)  # the last convolution starts at zero
    torch.nn.init.ones_(block.acceleration.conv_out.bias)
    assert torch.allclose(block(z, embedding, "rk4", 3), z + 1)


@pytest.mark.slow
def test_networks_are_trained_measured_and_kept(tmp_path):
    words = ["--batches", "1", "--batch_size", "1", "--seeds", "1", "--scans", "1", "--networks"]
    words += ["plain blocks", "ODE-U-Net without pre-segmentation", PAPER, RESIDUAL]
    folders = ["--work", str(tmp_path / "work"), "--output_dir", str(tmp_path)]
    main([*words, *folders])
    found = json.loads((tmp_path / "results_convergence.json").read_text())["rows"]
    assert [(row["network"], row["batches"]) for row in found] == [(name, 1) for name in words[-4:]]
    assert all(0 < row["divergence"] < 5 for row in found)
    assert (tmp_path / "results_convergence.png").is_file()
    main([*words, *folders])  # nothing is trained again
    assert json.loads((tmp_path / "results_convergence.json").read_text())["rows"] == found
