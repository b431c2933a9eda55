"""Change a network and keep what it computes: a residual block, wider channels, a larger kernel, all exact."""

import torch

import hwnas
from spaces.morphisms import DeepenResidual, GrowKernel, Widen
from spaces.state import initial_state

space = hwnas.PlainSpace(image=(3, 32, 32), classes=10)
arch = space.starts()[2]
state = initial_state(arch, seed=0)
images = torch.rand(8, 3, 32, 32)
before = hwnas.Network(arch, state.value).eval()(images)

for move in (DeepenResidual("n3"), Widen("n2", position=0, by=8), GrowKernel("n2")):
    rewrite = move.apply(arch)
    arch, state = rewrite.arch, rewrite.transfer(state)
    after = hwnas.Network(arch, state.value).eval()(images)
    error = ((after - before).abs().max() / before.abs().max()).item()
    print(f"{type(move).__name__:<15} {len(arch.nodes)} nodes, largest relative change of the output {error:.1e}")
    assert error < 1e-5
