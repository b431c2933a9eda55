import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hwnas.references import references
from objectives.data import load_data
from spaces.plain import PlainSpace
from tests.hwnas.toys import digits

MACS = [1e5, 1e5, 4e5, 1e7]


def agree(reference, data):
    """The trained module and its file, for a batch of two, on real images."""
    module = reference.build(3).eval()
    images = data.test.images[:2].float() / 255
    with torch.no_grad():
        expected = module(images)
    model = reference.export(module, 2)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": images.numpy()})
    assert np.abs(found - expected.numpy()).max() < 1e-4
    assert found.shape == (2, len(data.classes))


def test_three_plain_networks_for_small_images():
    data = digits()
    space = PlainSpace(data.shape, len(data.classes), max_width=16)  # whose bounds do not hold for them
    found = references(space, data, MACS)
    for reference in found:
        module = reference.build(0)
        assert reference.params == sum(
            parameter.numel() for parameter in module.parameters() if parameter.requires_grad
        )
        assert reference.macs > 0
        assert reference.peak_memory is not None
        agree(reference, data)


@pytest.mark.parametrize("macs", [MACS, [1e5], [1e5, 1e5], [1.0, 1e12]])
def test_plain_networks_are_as_large_as_the_front(macs):
    data = digits()
    found = [reference.macs for reference in references(PlainSpace(data.shape, len(data.classes)), data, macs)]
    assert found == sorted(set(found))
    assert len(found) == 3
    if len(macs) > 3:
        for size, target in zip(found, (1e5, (1e5 * 1e5 * 4e5 * 1e7) ** 0.25, 1e7), strict=True):
            assert 1 / 1.6 < size / target < 1.6


def test_the_seed_decides_the_weights():
    data = digits()
    reference, *_ = references(PlainSpace(data.shape, 10), data, MACS)
    first, same, other = (next(reference.build(seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_networks_for_larger_images(channels):
    data = load_data("digits", image_size=32, channels=channels, train_limit=20)
    found = references(PlainSpace(data.shape, len(data.classes), stages=2), data, MACS)
    assert [reference.name for reference in found[3:]] == ["mobilenet_v3_small", "resnet18"]
    mobilenet, resnet = found[3:]
    assert (mobilenet.params, resnet.params) == (1_528_106, 11_181_642)  # with ten classes
    assert resnet.macs == 37_016_576
    assert mobilenet.peak_memory is None
    module = mobilenet.build(0).eval()
    images = data.test.images[:2].float() / 255
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (data.mean, data.std))
    assert torch.equal(module(images), module.network(((images - mean) / std).expand(-1, 3, -1, -1)))
    assert torch.equal(next(module.parameters()), next(mobilenet.build(0).parameters()))
    if channels == 1:
        agree(mobilenet, data)
