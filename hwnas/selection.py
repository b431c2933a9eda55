"""Which network of a front to ship: the most accurate within limits, and what a little less or a little more would buy.

Cheap and dear turn on the *use* of a network: its cost / limit for each limit, the largest first, compared in that
order. Without limits on costs, use is latency (or parameters, where there is no latency or more than one), so that
"cheaper" still means something.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hwnas.hints import did_you_mean
from hwnas.manifest import Latency, Manifest, Model, Network
from spaces.errors import SpecError

QUANTITIES = ("error", "params", "macs", "peak_memory")
"""What can be limited besides ``latency`` and ``latency.DEVICE``; `error` is the validation error, a fraction."""

Percentile = Literal[50, 95]

_LATENCY = "latency."


@dataclass(frozen=True)
class Choice:
    """One network of the front, seen through the limits.

    Attributes:
        model: the network.
        costs: its value of each limited quantity and of what tells cheap from dear.
        use: cost / limit, the largest first; the error is no cost.
        excess: value / limit of the worst limit, the error's included; at most 1 if the network fits.
    """

    model: Model
    costs: dict[str, float]
    use: tuple[float, ...]
    excess: float


@dataclass(frozen=True)
class Selection:
    """The answer to "which one do I ship?".

    Attributes:
        limits: what had to hold, in base units (milliseconds, counts, bytes), by the full name of the quantity.
        best: most accurate on validation images within the limits; None where nothing fits.
        cheaper: most accurate of those that use less of the limits than `best`.
        better: of those more accurate than `best`, the one that exceeds the limits least.
        nearest_miss: where nothing fits, the one that exceeds the limits least.
        reference: the most accurate stock network that keeps the limits, if it is more accurate than `best`.
        percentile: of latency.
    """

    limits: dict[str, float]
    best: Choice | None
    cheaper: Choice | None = None
    better: Choice | None = None
    nearest_miss: Choice | None = None
    reference: Network | None = None
    percentile: Percentile = 50


def select(
    manifest: Manifest, limits: Mapping[str, float], *, device: str | None = None, percentile: Percentile = 50
) -> Selection:
    """Choose from the front by validation accuracy, within `limits` and the limits that the search itself had.

    A model over one of the search's own limits is never selected, unless that very limit is given anew: then the new
    one counts alone. Latency is what was measured; where a model was never timed on the device, the upper end of its
    predicted interval stands in. Ties in accuracy go to the cheaper network.

    Args:
        manifest: of a finished run.
        limits: largest value allowed, in place of the search's own, by ``params``, ``macs``, ``peak_memory`` (bytes),
            ``error`` (a fraction), ``latency`` or ``latency.DEVICE`` (milliseconds).
        device: which device ``latency`` means, if the manifest knows several.
        percentile: 50 for the median latency, 95 for the slow tail.

    Raises:
        SpecError: a quantity or device is unknown or ambiguous, a limit is not positive, the front is empty, or a model
            lacks the value.
    """
    if not manifest.models:
        raise SpecError("the front is empty, so there is nothing to select: no model was trained to the end")
    named = {_full_name(name, manifest, device): value for name, value in limits.items()}
    bounds = {_full_name(name, manifest, device): value for name, value in manifest.limits.items()} | named
    for name, bound in bounds.items():
        if not bound > 0:
            raise SpecError(f"the limit {name}={bound:g} lets nothing through; a limit is a number above 0")
    costs = {name: bound for name, bound in bounds.items() if name != "error"}
    costs = costs or {_default_cost(manifest, device): 1.0}
    choices = [_choice(model, costs, bounds, percentile) for model in manifest.models]
    anew = {name.partition(".")[0] for name in limits}
    fitting = [choice for choice in choices if choice.excess <= 1 and anew.issuperset(choice.model.over_limits)]
    if not fitting:
        nearest = min(choices, key=lambda choice: (choice.excess, *_merit(choice)))
        return Selection(bounds, None, nearest_miss=nearest, percentile=percentile)
    best = min(fitting, key=_merit)
    cheaper = min((choice for choice in fitting if choice.use < best.use), key=_merit, default=None)
    better = [choice for choice in choices if choice.model.accuracy.val > best.model.accuracy.val]
    ahead = _ahead(manifest, best.model.accuracy.val, bounds, percentile)
    return Selection(
        bounds, best, cheaper, min(better, key=_thrift, default=None), reference=ahead, percentile=percentile
    )


def _ahead(manifest: Manifest, accuracy: float, bounds: Mapping[str, float], percentile: Percentile) -> Network | None:
    """The best of the references that are known to keep the limits, if it is more accurate."""

    def fits(network: Network) -> bool:
        values = [(_known(network, name, percentile), bound) for name, bound in bounds.items()]
        return all(value is not None and value <= bound for value, bound in values)

    rivals = [one for one in manifest.references if one.accuracy.val > accuracy and fits(one)]
    return max(rivals, key=lambda one: one.accuracy.val, default=None)


def _choice(model: Model, costs: Mapping[str, float], bounds: Mapping[str, float], percentile: Percentile) -> Choice:
    values = {name: _value(model, name, percentile) for name in {**bounds, **costs}}
    return Choice(
        model,
        values,
        use=tuple(sorted((values[name] / unit for name, unit in costs.items()), reverse=True)),
        excess=max((values[name] / bound for name, bound in bounds.items()), default=0.0),
    )


def _value(model: Model, name: str, percentile: Percentile) -> float:
    value = _known(model, name, percentile)
    if value is None:
        wanted = f"the {percentile}th percentile of {name}" if percentile == 95 else name
        raise SpecError(f"{model.file} has no value for {wanted} in the manifest, so no limit on it can be checked")
    return value


def _known(network: Network, name: str, percentile: Percentile) -> float | None:
    value: float | None
    if name.startswith(_LATENCY):
        latency = network.latency.get(name.removeprefix(_LATENCY), Latency())
        value = latency.p95_ms if percentile == 95 else latency.p50_ms or latency.high_ms
    else:
        value = round(1 - network.accuracy.val, 12) if name == "error" else getattr(network, name)
    return None if value is None else float(value)


def _full_name(name: str, manifest: Manifest, device: str | None) -> str:
    """``latency`` becomes ``latency.DEVICE``; every other name is checked."""
    if name == "latency":
        return _LATENCY + device_of(manifest, device)
    if name.startswith(_LATENCY):
        return _LATENCY + device_of(manifest, name.removeprefix(_LATENCY))
    if name not in QUANTITIES:
        known = ["latency", *(_LATENCY + known for known in manifest.devices()), *QUANTITIES]
        raise SpecError(f"{name!r} cannot be limited; {did_you_mean(name, known)}")
    return name


def device_of(manifest: Manifest, name: str | None) -> str:
    """The device meant by `name`, or the only one there is.

    Raises:
        SpecError: there is no such device, none at all, or several and none was named; the message lists them.
    """
    devices = manifest.devices()
    listed = ", ".join(map(repr, devices))
    if not devices:
        raise SpecError("the manifest holds no latency, so it cannot be limited; limit params, macs or peak_memory")
    if name is not None and name not in devices:
        raise SpecError(f"no latency was measured or predicted on {name!r}; the devices of this run are {listed}")
    if name is None and len(devices) > 1:
        raise SpecError(f"'latency' could mean any of {listed}; name one, with --device or as latency.DEVICE=3ms")
    return name or devices[0]


def _default_cost(manifest: Manifest, device: str | None) -> str:
    if device is not None or len(manifest.devices()) == 1:
        return _full_name("latency", manifest, device)
    return "params"


def _merit(choice: Choice) -> tuple[float, tuple[float, ...]]:
    """Smallest for the most accurate, among equals for the one that uses least."""
    return -choice.model.accuracy.val, choice.use


def _thrift(choice: Choice) -> tuple[tuple[float, ...], float]:
    """Smallest for the one that uses least, among equals for the most accurate."""
    return choice.use, -choice.model.accuracy.val
