"""Search networks for your images and your device; get a Pareto front of trained, verified ONNX models.

Everything a user needs stands here; the four packages behind it are ``spaces`` (what can be built), ``latency`` (what
it costs on a device), ``objectives`` (how good it is) and ``hwnas`` (which candidate next, and the command line).

>>> import hwnas
>>> spec = hwnas.Spec().resolve({"data.source": "digits", "budget": "90s", "limits": {"latency": "1ms"}})
>>> spec.budget.time, spec.limits
(90.0, {'latency': 1.0})

``hwnas.search(spec, "runs/mine")`` then runs it, and ``hwnas.read_manifest("runs/mine")`` says what came out.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.executor import Executor as Executor
    from hwnas.lemonade import Lemonade as Lemonade
    from hwnas.manifest import Manifest as Manifest
    from hwnas.manifest import read as read_manifest
    from hwnas.randomsearch import RandomSearch as RandomSearch
    from hwnas.runfolder import resume as resume
    from hwnas.runfolder import search as search
    from hwnas.selection import select as select
    from hwnas.spec import Spec as Spec
    from hwnas.store import Store as Store
    from hwnas.strategy import Strategy as Strategy
    from hwnas.study import Study as Study
    from hwnas.trial import Result as Result
    from hwnas.trial import Trial as Trial
    from latency import Deployment as Deployment
    from latency import LatencyTable as LatencyTable
    from objectives.data import load_data as load_data
    from objectives.recipe import Recipe as Recipe
    from spaces.arch import Arch as Arch
    from spaces.cellspace import CellSpace as CellSpace
    from spaces.errors import HwnasError as HwnasError
    from spaces.network import Network as Network
    from spaces.onnx import to_onnx as to_onnx
    from spaces.plain import PlainSpace as PlainSpace
    from spaces.space import Space as Space
    from spaces.state import State as State

#: Public name -> where it lives. Imported on first use: ``hwnas --help`` and `Spec` need neither torch nor ONNX.
_HOMES = {
    "Arch": "spaces.arch",
    "CellSpace": "spaces.cellspace",
    "Deployment": "latency",
    "Executor": "hwnas.executor",
    "HwnasError": "spaces.errors",
    "LatencyTable": "latency",
    "Lemonade": "hwnas.lemonade",
    "Manifest": "hwnas.manifest",
    "Network": "spaces.network",
    "PlainSpace": "spaces.plain",
    "RandomSearch": "hwnas.randomsearch",
    "Recipe": "objectives.recipe",
    "Result": "hwnas.trial",
    "Space": "spaces.space",
    "Spec": "hwnas.spec",
    "State": "spaces.state",
    "Store": "hwnas.store",
    "Strategy": "hwnas.strategy",
    "Study": "hwnas.study",
    "Trial": "hwnas.trial",
    "load_data": "objectives.data",
    "resume": "hwnas.runfolder",
    "search": "hwnas.runfolder",
    "select": "hwnas.selection",
    "to_onnx": "spaces.onnx",
}

__all__ = ["read_manifest", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "read_manifest":
        return import_module("hwnas.manifest").read
    if name not in _HOMES:
        raise AttributeError(f"module 'hwnas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
