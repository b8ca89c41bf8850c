"""One torch thread, a cache of our own, and Flower's telemetry off, before anything is imported."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher features of a test session go to a folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["EDGECMD_CACHE"] = str(folder)
    return folder
