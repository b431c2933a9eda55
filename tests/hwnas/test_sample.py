import onnx
import pytest

from hwnas.sample import COUNT, first_networks, random_networks, untrained_models
from spaces.plain import PlainSpace
from tests.hwnas.toys import FOUR_NETWORKS

SPACE = PlainSpace((1, 8, 8), classes=3, stages=2, max_width=32)


@pytest.mark.parametrize("networks", [first_networks, random_networks])
def test_different_ones_by_the_seed(networks):
    again, same, other = ([arch.hash for arch in networks(SPACE, seed)] for seed in (1, 1, 2))
    assert again == same != other
    assert len(set(again)) == len(again) == COUNT


def test_a_search_sees_its_starts_first():
    starts = [SPACE.decode(genotype).hash for genotype in SPACE.starts()]
    assert [arch.hash for arch in first_networks(SPACE, 1)][: len(starts)] == starts


def test_a_small_space_gives_what_it_has():
    assert len(first_networks(FOUR_NETWORKS, 0)) == 4
    assert len(random_networks(FOUR_NETWORKS, 0)) == 2  # kernels are drawn from 3 upwards


def test_as_files():
    archs = random_networks(SPACE, 0)[:3]
    models = untrained_models(archs, batch=2)
    assert [model.graph.name for model in models] == ["sample-0", "sample-1", "sample-2"]
    for model in models:
        onnx.checker.check_model(model, full_check=True)
        assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [2, 1, 8, 8]
