"""Selection: the best within limits, its neighbours, the nearest miss, and several devices."""

import pytest

from hwnas.manifest import Latency, Manifest
from hwnas.selection import Choice, select
from spaces.errors import SpecError
from tests.hwnas.conftest import DEVICE


def file(choice: Choice | None) -> str | None:
    return choice and choice.model.file.removesuffix(".onnx")


@pytest.mark.parametrize(
    ("limits", "best", "cheaper", "better"),
    [
        ({}, "large", "medium", None),
        ({"latency": 3.0}, "large", "medium", None),
        ({"latency": 2.0}, "large", "medium", None),  # at the limit is within it
        ({"latency": 1.999}, "medium", "small", "large"),
        ({"params": 20_000}, "medium", "small", "large"),
        ({"latency": 10, "params": 5_000}, "small", None, "medium"),
        ({"macs": 10_000_000, "peak_memory": 4096}, "large", "medium", None),  # all use the whole memory limit
    ],
)
def test_best_and_neighbours(
    manifest: Manifest, limits: dict[str, float], best: str, cheaper: str | None, better: str | None
) -> None:
    selection = select(manifest, limits)
    assert (file(selection.best), file(selection.cheaper), file(selection.better)) == (best, cheaper, better)
    assert selection.nearest_miss is None


def test_error_bounds_what_fits_but_is_no_cost(manifest: Manifest) -> None:
    selection = select(manifest, {"error": 0.06, "latency": 2.5})
    assert (file(selection.best), file(selection.cheaper)) == ("large", "medium")
    assert file(select(manifest, {"error": 0.04}).cheaper) is None
    unreachable = select(manifest, {"error": 0.01, "latency": 2.5})
    assert file(unreachable.nearest_miss) == "large"


def test_an_error_at_the_limit_is_within_it(manifest: Manifest) -> None:
    """Although 1 - 0.95 is more than 0.05."""
    model = manifest.models[0]
    model = model.model_copy(update={"accuracy": model.accuracy.model_copy(update={"val": 0.95})})
    selection = select(manifest.model_copy(update={"models": [model]}), {"error": 0.05})
    assert file(selection.best) == file(Choice(model, {}, (), 0.0))


def test_better_is_the_one_that_exceeds_the_limits_least(manifest: Manifest) -> None:
    # Both `fat` and `large` are better than `medium`; `large` asks for less.
    assert file(select(manifest, {"params": 50_000}).better) == "large"


def test_nothing_fits(manifest: Manifest) -> None:
    selection = select(manifest, {"latency": 0.05, "params": 1_000_000})
    assert selection.best is selection.cheaper is selection.better is None
    assert file(selection.nearest_miss) == "small"
    assert selection.nearest_miss
    assert selection.nearest_miss.excess == pytest.approx(2.0)


def test_percentile_95_is_the_measured_tail(manifest: Manifest) -> None:
    assert file(select(manifest, {"latency": 2.5}, percentile=95).best) == "medium"
    assert file(select(manifest, {"latency": 2.5}, percentile=50).best) == "large"


def test_ties_in_accuracy_go_to_the_cheaper(manifest: Manifest) -> None:
    same = manifest.models[0].accuracy
    models = [model.model_copy(update={"accuracy": same}) for model in manifest.models]
    assert file(select(manifest.model_copy(update={"models": models}), {"latency": 5}).best) == "small"


def test_limits_of_the_search_hold_unless_replaced(manifest: Manifest) -> None:
    limited = manifest.model_copy(update={"limits": {"latency": 1.0}})
    assert file(select(limited, {}).best) == "medium"
    assert file(select(limited, {"params": 200_000}).best) == "medium"
    assert file(select(limited, {"latency": 5.0}).best) == "large"


def test_a_violator_of_the_search_is_selected_only_if_that_limit_is_given_anew(manifest: Manifest) -> None:
    large, *others = manifest.models
    over = manifest.model_copy(update={"models": [large.model_copy(update={"over_limits": ["latency"]}), *others]})
    assert file(select(over, {}).best) == "fat"
    assert file(select(over, {"params": 1_000_000}).best) == "fat"
    assert file(select(over, {"latency": 1_000.0}).best) == "large"
    assert file(select(over, {f"latency.{DEVICE}": 1_000.0}).best) == "large"
    twice = over.model_copy(update={"models": [large.model_copy(update={"over_limits": ["latency", "macs"]})]})
    assert select(twice, {"latency": 1_000.0}).best is None
    assert file(select(twice, {"latency": 1_000.0, "macs": 1e9}).best) == "large"


def test_unmeasured_latency_counts_as_the_upper_end_of_the_prediction(manifest: Manifest) -> None:
    unmeasured = Latency(predicted_ms=2.0, low_ms=1.8, high_ms=2.4)
    large = manifest.models[0]
    models = [large.model_copy(update={"latency": dict.fromkeys(large.latency, unmeasured)}), *manifest.models[1:]]
    changed = manifest.model_copy(update={"models": models})
    assert file(select(changed, {"latency": 2.3}).best) == "medium"
    assert file(select(changed, {"latency": 2.4}).best) == "large"
    with pytest.raises(SpecError, match="no value for the 95th percentile of latency"):
        select(changed, {"latency": 2.4}, percentile=95)


def two_devices(manifest: Manifest) -> Manifest:
    """A second device that is ten times slower, and on which `large` is cheaper than `medium`."""
    models = []
    for model in manifest.models:
        (here,) = model.latency.values()
        assert here.p50_ms
        slow = 1.0 if model.file == "large.onnx" else 10 * here.p50_ms
        models.append(model.model_copy(update={"latency": {"epyc": here, "board": Latency(p50_ms=slow)}}))
    return manifest.model_copy(update={"models": models})


def test_several_devices_must_be_told_apart(manifest: Manifest) -> None:
    both = two_devices(manifest)
    with pytest.raises(SpecError, match="'latency' could mean any of 'epyc', 'board'"):
        select(both, {"latency": 1.0})
    assert file(select(both, {"latency": 1.0}, device="epyc").best) == "medium"
    assert file(select(both, {"latency": 1.0}, device="board").best) == "large"
    selection = select(both, {"latency.board": 6.0, "latency.epyc": 1.0})
    assert file(selection.best) == "medium"
    assert selection.best
    assert selection.best.costs == {"latency.board": 5.0, "latency.epyc": 0.5}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"latncy": 3.0}, r"'latncy' cannot be limited; did you mean latency\?"),
        ({"wombats": 3.0}, "'wombats' cannot be limited; known are latency, .*peak_memory"),
        ({"latency.phone": 3.0}, "'phone'; the devices of this run are"),
        ({"params": 0}, "params=0 lets nothing through"),
        ({"params": float("nan")}, "params=nan lets nothing through"),
    ],
)
def test_wrong_limits_are_explained(manifest: Manifest, limits: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        select(manifest, limits)


def test_empty_front_and_front_without_latency(manifest: Manifest) -> None:
    with pytest.raises(SpecError, match="the front is empty"):
        select(manifest.model_copy(update={"models": []}), {})
    untimed = manifest.model_copy(update={"models": [m.model_copy(update={"latency": {}}) for m in manifest.models]})
    with pytest.raises(SpecError, match="holds no latency"):
        select(untimed, {"latency": 1.0})
    assert file(select(untimed, {}).cheaper) == "medium"  # without latency, cheap means few parameters


def test_a_reference_that_is_more_accurate_within_the_limits_is_named(manifest: Manifest) -> None:
    (reference,) = manifest.references
    assert select(manifest, {"params": 8_000}).reference is None
    better = reference.model_copy(update={"accuracy": reference.accuracy.model_copy(update={"val": 0.91})})
    manifest = manifest.model_copy(update={"references": [reference, better]})
    assert select(manifest, {"params": 8_000}).reference is better
    assert select(manifest, {"params": 5_000}).reference is None  # too large
    assert select(manifest, {"params": 8_000, "latency": 0.15}).reference is better
    assert select(manifest, {"params": 8_000, "latency": 0.15}, percentile=95).reference is None
    assert select(manifest, {"params": 8_000, "peak_memory": 5000}).reference is None  # not known to keep it
    assert select(manifest, {}).reference is None  # the best of the front is better
