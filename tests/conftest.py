"""One thread for all tests: small tensors gain nothing from more, and a process that a test starts
with one thread must compute the same bits."""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
