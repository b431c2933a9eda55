import onnx

from hwnas.sample import sample_models
from spaces.plain import PlainSpace
from tests.hwnas.toys import FOUR_NETWORKS

SPACE = PlainSpace((1, 8, 8), classes=3, stages=2, max_width=32)


def test_different_networks_the_starts_first():
    models = sample_models(SPACE, batch=2, seed=1)
    assert [model.graph.name for model in models] == [f"sample-{i}" for i in range(1, 21)]
    assert len({model.SerializeToString() for model in models}) == 20
    for model in models:
        onnx.checker.check_model(model, full_check=True)
        assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [2, 1, 8, 8]


def test_the_seed_decides():
    again, same, other = (sample_models(SPACE, seed=seed) for seed in (1, 1, 2))
    assert again == same
    starts = len(SPACE.starts())
    assert again[:starts] == other[:starts]
    assert again != other


def test_a_small_space_gives_what_it_has():
    assert 1 < len(sample_models(FOUR_NETWORKS)) <= 4
