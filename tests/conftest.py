import torch

# with more threads sums are taken in an order that depends on the size of the batch, and equal means equal here
torch.set_num_threads(1)
