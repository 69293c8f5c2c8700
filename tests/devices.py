"""Devices that this machine does not have: what the decisions for a GPU are tested with."""

from types import SimpleNamespace

from tasks.training.device import gpu

H100 = gpu(SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, total_memory=85_024_112_640
))  # fmt: skip
