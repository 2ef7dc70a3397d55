import multiprocessing
import uuid

import pytest
import torch
import torch.distributed as dist
from monai.bundle import ConfigParser

from monai_pdddpm.utils import ranks

# with several threads, the order of sums depends on the batch size, and results are not bit-identical
torch.set_num_threads(1)


def _work(number, count, folder, work):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=count)
    try:
        answer = work()
    except Exception as error:  # the test receives it
        answer = error
    torch.save(answer, folder / f"{number}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def in_processes(tmp_path):
    """Run a function in processes of one group; return its results or exceptions by rank."""

    def run(count, work):
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        context = multiprocessing.get_context("fork")
        started = [context.Process(target=_work, args=(n, count, folder, work)) for n in range(count)]
        for process in started:
            process.start()
        for process in started:
            process.join(120)
            process.kill()
        return [torch.load(folder / f"{n}.pt", weights_only=False) for n in range(count)]

    return run


@pytest.fixture
def loader_of_two(monkeypatch):
    """Return the training's data loader of the first of two processes, for a data set of five and batches of one."""
    monkeypatch.setattr(ranks, "world_size", lambda: 2)

    def load(bundle, stage):
        parser = ConfigParser()
        parser.read_config([str(bundle / "configs" / f"{name}.json") for name in (stage, "multi_gpu_train")])
        parser["train"]["dataset"], parser["batch_size"] = "$range(5)", 1
        return parser.get_parsed_content("train::dataloader")

    return load
