"""The plain macro space: a stem, stages that halve the map, convolutions, skips by Add and by Concat.

The genotype is the canonical architecture itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from spaces.arch import Arch, chain
from spaces.channels import axes
from spaces.errors import MoveRefused, SpecError
from spaces.graph import ancestors
from spaces.morphisms import (
    AddBranch,
    Deepen,
    DeepenResidual,
    GrowKernel,
    Morphism,
    Prune,
    RemoveLayer,
    RemoveSkip,
    Separate,
    ShrinkKernel,
    SkipAdd,
    SkipConcat,
    SkipIdentity,
    Widen,
)
from spaces.move import Move
from spaces.ops import Act, Add, Concat, Conv, DepthwiseConv, GlobalPool, Input, Linear, Normalise, Op
from spaces.record import check_types
from spaces.space import Child, Choose, Space


@dataclass(frozen=True)
class PlainSpace(Space[Arch]):
    """Bounds of the plain space; see :mod:`spaces.plain`.

    Attributes:
        image: Channels, height and width of the images.
        classes: Number of classes.
        stages: Number of map sizes; the map is halved between them.
        stem_stride: Stride of the first convolution (more than 1 for large images).
        max_depth: Most convolutions in a network, depthwise ones included.
        min_width: Fewest channels of a convolution.
        max_width: Most channels of a convolution.
        max_kernel: Largest kernel.
        max_params: Most parameters, or None.
        separable: Whether depthwise-separable convolutions are allowed.
        skips: Whether branches and skips are allowed.
        width_step: Channels come and go in multiples of this, which devices like.
    """

    image: tuple[int, int, int]
    classes: int
    stages: int = 3
    stem_stride: int = 1
    max_depth: int = 40
    min_width: int = 8
    max_width: int = 512
    max_kernel: int = 7
    max_params: int | None = None
    separable: bool = True
    skips: bool = True
    width_step: int = 8
    shrinks_by: ClassVar[str] = "space.min_width, space.stem_stride"

    def __post_init__(self) -> None:
        check_types(self, SpecError)
        for name in ("stages", "stem_stride", "width_step"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if not 1 <= self.min_width <= self.max_width:
            raise SpecError(f"widths from {self.min_width} to {self.max_width}: the first must be 1 to the second")
        if self.classes < 2:
            raise SpecError(f"classes is {self.classes}, there must be at least 2")
        for start in self.starts()[:1]:
            why = self.refusal(start)
            if why is not None:
                raise SpecError(
                    f"the bounds leave none of the networks that a search begins with; of the smallest: {why}"
                )

    def plain(self, widths: Sequence[int], convs: Sequence[int], kernel: int = 3, separable: bool = False) -> Arch:
        """A chain of convolutions.

        Args:
            widths: Channels per stage.
            convs: Convolutions per stage; the first of a stage halves the map (but for the first stage).
            kernel: Of all convolutions.
            separable: All but the first convolution depthwise-separable.
        """
        ops: list[Op] = [Input(*self.image), Normalise()]
        for stage, (width, count) in enumerate(zip(widths, convs, strict=True)):
            for i in range(count):
                stride = 1 if i else self.stem_stride if stage == 0 else 2
                if separable and len(ops) > 2:
                    ops += [DepthwiseConv(kernel, stride), Conv(kernel=1, channels=width)]
                else:
                    ops.append(Conv(kernel=kernel, stride=stride, channels=width))
        return chain(*ops, GlobalPool(), Linear(self.classes)).canonical()

    def starts(self) -> list[Arch]:
        """Plain chains, small to large.

        The first has one convolution a stage, of the least width everywhere, separable where that is allowed. The
        others have one or two convolutions a stage, each stage twice as wide as the one before.
        """
        kernel = 3 if self.max_kernel >= 3 else 1
        separable = self.separable and 2 * self.stages - 1 <= self.max_depth
        found = [self.plain([self.min_width] * self.stages, [1] * self.stages, kernel, separable)]
        for width in (self.min_width, 2 * self.min_width, 4 * self.min_width):
            widths = [min(width * 2**stage, self.max_width) for stage in range(self.stages)]
            found += [self.plain(widths, [count] * self.stages, kernel) for count in (1, 2)]
        fitting = [arch for arch in dict.fromkeys(found) if self.refusal(arch) is None]
        return fitting or found[:1]

    def sample(self, rng: np.random.Generator) -> Arch:
        """A chain of 1 to 3 convolutions a stage, dense or separable, then up to 3 random moves.

        The first width is log-uniform, so that small and large networks are equally likely; each stage has about twice
        the width of the one before.
        Where the bounds refuse a hundred chains, it begins with one of :meth:`starts`.
        """
        chains = (self._random_chain(rng) for _ in range(100))
        arch = next((chain for chain in chains if self.refusal(chain) is None), None)
        if arch is None:
            starts = self.starts()
            arch = starts[rng.integers(len(starts))]
        for _ in range(rng.integers(0, 4) if self.skips else 0):
            proposed = self.propose(arch, rng)
            arch = proposed[1].genotype if proposed else arch
        return arch

    def _random_chain(self, rng: np.random.Generator) -> Arch:
        largest = max(self.min_width, self.max_width / 2 ** (self.stages - 1))
        first = np.exp(rng.uniform(np.log(self.min_width), np.log(largest)))
        drawn = first * 2.0 ** np.arange(self.stages) * rng.uniform(0.7, 1.4, self.stages)
        stepped = np.round(drawn / self.width_step).astype(int) * self.width_step
        widths = stepped.clip(self.min_width, self.max_width).tolist()
        kernel = int(rng.choice([3, 3, 5]))
        convs = rng.integers(1, 4, self.stages).tolist()
        return self.plain(widths, convs, kernel, separable=self.separable and rng.random() < 0.4)

    def compose(self, choose: Choose) -> Arch:
        """A chain: width and number of convolutions of each stage, and for all of them kernel and style."""
        steps = int(2 * np.log2(self.max_width / self.min_width)) + 1  # each wider than the one before by the root of 2
        drawn = self.min_width * 2 ** (np.arange(steps) / 2)
        widths = np.unique((drawn / self.width_step).round() * self.width_step).clip(self.min_width, self.max_width)
        grid = [int(width) for width in np.unique(widths)]
        kernels = [kernel for kernel in (3, 5, 7) if kernel <= self.max_kernel] or [1]
        return self.plain(
            [choose(f"width{stage}", grid) for stage in range(self.stages)],
            [choose(f"convs{stage}", (1, 2, 3)) for stage in range(self.stages)],
            choose("kernel", kernels),
            separable=choose("separable", (False, True)) if self.separable else False,
        )

    def decode(self, genotype: Arch) -> Arch:
        """The genotype itself."""
        return genotype

    def moves(self, genotype: Arch) -> Sequence[Morphism]:
        """Every applicable move of every kind that the space allows."""
        return _moves(self, genotype)

    def apply(self, genotype: Arch, move: Move) -> Child[Arch]:
        """The child, canonical."""
        if not isinstance(move, Morphism):
            raise MoveRefused(f"{move} is refused: it is no move of an architecture")
        rewrite = move.apply(genotype)
        return Child(rewrite.arch, move.exact, lambda: rewrite)

    def refusal(self, genotype: Arch) -> str | None:
        """Depth, width, kernel and parameter bounds, in this order."""
        filters = [node.op for node in genotype.nodes if isinstance(node.op, Conv | DepthwiseConv)]
        if len(filters) > self.max_depth:
            return f"{len(filters)} convolutions, max_depth is {self.max_depth}"
        widths = [op.channels for op in filters if isinstance(op, Conv)]
        if not all(self.min_width <= width <= self.max_width for width in widths):
            return f"widths {sorted(set(widths))}, allowed are {self.min_width} to {self.max_width}"
        if any(op.kernel > self.max_kernel for op in filters):
            return f"a kernel larger than max_kernel, {self.max_kernel}"
        if self.max_params is not None and genotype.n_params > self.max_params:
            return f"{genotype.n_params} parameters, max_params is {self.max_params}"
        return None

    def to_json(self, genotype: Arch) -> Any:
        """The architecture's JSON."""
        return genotype.to_json()

    def from_json(self, data: Any) -> Arch:
        """Reads the architecture and puts it into canonical form."""
        return Arch.from_json(data).canonical()


@lru_cache(maxsize=512)
def _moves(space: PlainSpace, arch: Arch) -> tuple[Morphism, ...]:
    return tuple(move for move in _candidates(space, arch) if move.applicable(arch))


def _candidates(space: PlainSpace, arch: Arch) -> Iterator[Morphism]:
    """Moves worth asking whether they are applicable."""
    styles = (False, True) if space.separable else (False,)
    seen = set()
    for name, axis in axes(arch).items():
        for position, segment in enumerate(axis):
            if segment.frozen or segment in seen:
                continue
            seen.add(segment)
            half = max(space.width_step, segment.size // 2 // space.width_step * space.width_step)
            for by in sorted({space.width_step, half, segment.size}):
                yield Widen(name, position, by)
                if by < segment.size:
                    yield Prune(name, position, by)
            yield Widen(name, position, half, copies=True)
    for node in arch.nodes:
        name = node.name
        if isinstance(node.op, Conv | DepthwiseConv):
            if node.op.kernel + 2 <= space.max_kernel:
                yield GrowKernel(name)
            yield ShrinkKernel(name)
            yield RemoveLayer(name)
            if isinstance(node.op, Conv) and space.separable:
                yield Separate(name)
        if isinstance(node.op, Act):  # what a skip has left behind
            yield RemoveLayer(name)
        if len(arch.shapes[name]) != 3:
            continue
        for depthwise in styles:
            yield Deepen(name, 3, depthwise)
            if space.skips:
                yield DeepenResidual(name, 3, depthwise)
                yield AddBranch(name, 3, depthwise)
        if space.skips:
            yield AddBranch(name, 1)
            for source in sorted(ancestors(arch, name)):
                yield SkipAdd(name, source)
                yield SkipConcat(name, source)
                yield SkipIdentity(name, source)
        if isinstance(node.op, Add | Concat):
            for position in range(len(node.inputs)):
                yield RemoveSkip(name, position)
