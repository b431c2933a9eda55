"""Property tests repeat themselves by default; HYPOTHESIS_PROFILE=search looks for new counterexamples."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("quick", max_examples=20, derandomize=True, database=None, **_COMMON)
settings.register_profile("search", max_examples=500, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are so small that more threads only wait for each other
    yield
    torch.set_num_threads(before)
