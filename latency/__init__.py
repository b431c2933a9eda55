"""What a network costs on a device: a table of the kernels its runtime really executes, measured there.

>>> from pathlib import Path
>>> from tempfile import mkdtemp
>>> from onnx.parser import parse_model
>>> net = parse_model('''
...     <ir_version: 8, opset_import: ["": 17]>
...     net (float[N,3,8,8] image) => (float[N,3,8,8] edges) { edges = Relu(image) }
... ''')
>>> table = LatencyTable.open(make_runtime(Deployment.here("ort-cpu")), Path(mkdtemp()) / "table.csv")
>>> latency = table.predict(net)
>>> latency.kernels, 0 < latency.low_ms <= latency.ms <= latency.high_ms, latency.table == table.snapshot()
(2, True, True)
"""

from latency.deployment import Deployment
from latency.kernels import Kernel, Operand
from latency.prediction import Latency
from latency.profile import CheckReport, check, profile
from latency.runtimes import Runtime, make_runtime
from latency.table import LatencyTable, cache_path
from latency.tablefile import Check, Header
from latency.timing import Measured, Protocol, Timing, measure_many, time_kernels

__all__ = [
    "Check",
    "CheckReport",
    "Deployment",
    "Header",
    "Kernel",
    "Latency",
    "LatencyTable",
    "Measured",
    "Operand",
    "Protocol",
    "Runtime",
    "Timing",
    "cache_path",
    "check",
    "make_runtime",
    "measure_many",
    "profile",
    "time_kernels",
]
