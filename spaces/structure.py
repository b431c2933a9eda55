"""`structure`: what can be counted and measured on a graph, as numbers that a model can learn from."""

import math
from collections import Counter

from spaces.arch import Arch
from spaces.ops import Add, Concat, Conv, DepthwiseConv, Pool


def structure(arch: Arch) -> dict[str, float]:
    """Features of any architecture, of every space alike; one that is missing counts as 0.

    How many convolutions there are of each kernel and style, and at each size of the map; how many poolings, sums and
    concatenations; how many convolutions a way through the network passes (most, fewest, on average) and how far a
    class score sees; the widest map of each size, parameters and multiply-accumulates, as logarithms.

    >>> from spaces.arch import chain
    >>> from spaces.ops import GlobalPool, Input, Linear
    >>> found = structure(chain(Input(3, 8, 8), Conv(channels=4), Conv(channels=8, stride=2), GlobalPool(), Linear(10)))
    >>> found["conv 3"], found["most"], found["width 1"], found["sees"]
    (2.0, 2.0, 3.0, 2.321928094887362)
    """
    most, fewest, average, steps, sight = ({arch.nodes[0].name: start} for start in (0.0, 0.0, 0.0, 1.0, 1.0))
    counts: Counter[str] = Counter()
    widths: dict[str, float] = {}
    for node in arch.nodes[1:]:
        name, op, inputs = node.name, node.op, node.inputs
        filters = isinstance(op, Conv | DepthwiseConv)
        window, stride = getattr(op, "kernel", 1), getattr(op, "stride", 1)
        most[name] = max(most[source] for source in inputs) + filters
        fewest[name] = min(fewest[source] for source in inputs) + filters
        average[name] = sum(average[source] for source in inputs) / len(inputs) + filters
        steps[name] = max(steps[source] for source in inputs) * stride
        sight[name] = max(sight[source] + (window - 1) * steps[source] for source in inputs)
        if isinstance(op, Conv | DepthwiseConv):
            size = round(math.log2(steps[name]))
            counts[f"{'conv' if isinstance(op, Conv) else 'depthwise'} {window}"] += 1
            counts[f"size {size}"] += 1
            widths[f"width {size}"] = max(widths.get(f"width {size}", 0.0), math.log2(arch.shapes[name][0]))
        elif isinstance(op, Add | Concat | Pool):
            counts[type(op).__name__] += len(inputs) - (not isinstance(op, Pool))
    last = arch.output
    macs = sum(node.op.macs(arch.input_shapes(node.name)) for node in arch.nodes)
    return {
        **{key: float(count) for key, count in counts.items()},
        **widths,
        "most": most[last],
        "fewest": fewest[last],
        "average": average[last],
        "sees": math.log2(sight[last]),
        "params": math.log2(arch.n_params),
        "macs": math.log2(1 + macs),
    }
