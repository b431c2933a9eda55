"""`Step`: one optimiser step of a recipe: forward, loss, backward, update."""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.data import Split
from objectives.modules import device_of, fitting, refuse_labels
from objectives.muon import Muon
from objectives.recipe import Recipe


class Step:
    """One optimiser step. Nothing in it waits for the device, so that steps queue up.

    Args:
        module: What is trained, in place.
        split: Where the batches come from; no label in it may lack a logit.
        recipe: How; precision "auto" counts as fp32.
        teacher: A network to be near to, or None.
        momentum: Buffers to start from, by parameter name; what it leaves out starts at zero.
    """

    def __init__(
        self,
        module: nn.Module,
        split: Split,
        recipe: Recipe,
        teacher: nn.Module | None,
        momentum: Mapping[str, Tensor] | None,
    ) -> None:
        self.module, self.recipe, self.teacher = module, recipe, teacher
        self.device = device_of(module)
        self.highest_label = int(split.labels.max())
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        filters: dict[str, nn.Parameter] = {}
        self.muon: Muon | None = None
        if recipe.muon_lr is not None:
            filters = {name: p for name, p in self.named.items() if p.ndim == 4}
            dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
            self.muon = Muon(filters, recipe.muon_lr / recipe.lr, recipe.momentum, dtype)
        rest = {name: p for name, p in self.named.items() if name not in filters}
        decayed = [p for p in rest.values() if p.ndim > 1]
        others = [p for p in rest.values() if p.ndim <= 1]
        # On a GPU a tensor: a captured step reads it from where it lies.
        self.rate: float | Tensor = recipe.lr
        if self.device.type == "cuda":
            self.rate = torch.tensor(recipe.lr, device=self.device)
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        if recipe.momentum > 0:
            for parameter in rest.values():
                # In the parameter's own memory order, which a fused optimiser takes for granted.
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            buffers = self.momentum()
            for name, start in fitting(momentum or {}, self.named, "momentum").items():
                buffers[name].copy_(start)

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        """The loss before the update, still on the device.

        Args:
            images: Float images in 0..1, shape (N, C, H, W).
            labels: int64 (N,).
            lr: Learning rate of this step.
        """
        self.set_rate(lr)
        return self.update(images, labels)

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        if isinstance(self.rate, Tensor):
            self.rate.fill_(lr)
            return
        self.rate = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss before the update, at the learning rate that is set."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.module(images).float()
            with torch.no_grad():
                target = None if self.teacher is None else self.teacher(images).float()
        refuse_labels(self.highest_label, logits)
        loss = _loss(logits, labels, target, self.recipe)
        self.module.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.named.values(), self.recipe.clip)
        self.optimizer.step()
        if self.muon is not None:
            self.muon.step(self.rate)
        return loss.detach()

    def snapshot(self) -> list[Tensor]:
        """Copies of all that a step changes; :meth:`restore` takes them."""
        return [tensor.clone() for tensor in self._changed()]

    def restore(self, before: Sequence[Tensor]) -> None:
        """Go back to a snapshot; the tensors stay where they are."""
        with torch.no_grad():
            for tensor, value in zip(self._changed(), before, strict=True):
                tensor.copy_(value)

    def _changed(self) -> list[Tensor]:
        own = itertools.chain(self.module.parameters(), self.module.buffers())
        return [*(tensor.detach() for tensor in own), *self.momentum().values()]

    def momentum(self) -> dict[str, Tensor]:
        """The momentum buffers by parameter name; empty where the recipe has no momentum."""
        if self.recipe.momentum == 0:
            return {}
        own = {} if self.muon is None else self.muon.momentum
        state = self.optimizer.state
        return {name: own[name] if name in own else state[p]["momentum_buffer"] for name, p in self.named.items()}


def _loss(logits: Tensor, labels: Tensor, target: Tensor | None, recipe: Recipe) -> Tensor:
    """Cross-entropy with smoothed labels, mixed with the distance to the teacher's softened answer if there is one."""
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if target is None:
        return loss
    soft, aim = (F.log_softmax(values / recipe.temperature, dim=1) for values in (logits, target))
    distance = F.kl_div(soft, aim, reduction="batchmean", log_target=True) * recipe.temperature**2
    return (1 - recipe.distill_weight) * loss + recipe.distill_weight * distance
