"""scikit-learn's digits as two splits."""

import pytest
import torch
from sklearn.datasets import load_digits

from objectives.data import Split


@pytest.fixture(scope="session")
def digits() -> tuple[Split, Split]:
    found = load_digits()
    images = torch.from_numpy(found.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return Split(images[order[:1200]], labels[order[:1200]]), Split(images[order[1200:]], labels[order[1200:]])
