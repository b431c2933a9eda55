"""Advice: what a selection found, in words for people and as JSON for programs."""

from pathlib import Path

from hwnas.quantities import format_quantity, round_quantity
from hwnas.selection import Choice, Selection


def lines(selection: Selection, folder: Path) -> list[str]:
    """A selection for people: what each network is and what it costs or gains.

    Args:
        selection: What `select` found.
        folder: Where the files are.
    """
    limits = ", ".join(f"{_short(name)} <= {format_quantity(name, bound)}" for name, bound in selection.limits.items())
    if selection.best is None:
        said = [f"nothing fits {limits}"]
        if selection.nearest_miss:
            said += _choice_lines("nearest miss", selection.nearest_miss, selection, folder)
        return said
    said = [f"within {limits}"] if limits else []
    said += _choice_lines("best", selection.best, selection, folder)
    if selection.cheaper:
        said += _choice_lines("cheaper", selection.cheaper, selection, folder)
    if selection.better:
        said += _choice_lines("better", selection.better, selection, folder)
    if (rival := selection.reference) is not None:
        accuracy = selection.best.model.accuracy
        gain = rival.accuracy.val - accuracy.val
        sure = "within" if gain <= accuracy.val_stderr else "beyond"
        said += [
            f"note     the reference {rival.id} keeps the limits too, with {rival.accuracy.val:.2%} on validation "
            f"({100 * gain:+.2f} points, {sure} the standard error): the search may need a larger budget"
        ]
    return said


def to_json(selection: Selection, folder: Path) -> dict[str, object]:
    """A selection for programs: for each network the manifest's entry, its path, and its values of what is limited."""

    def choice(found: Choice | None) -> dict[str, object] | None:
        if found is None:
            return None
        return {"path": str(folder / found.model.file), "costs": found.costs, **found.model.model_dump(mode="json")}

    return {
        "limits": selection.limits,
        "best": choice(selection.best),
        "cheaper": choice(selection.cheaper),
        "better": choice(selection.better),
        "nearest_miss": choice(selection.nearest_miss),
        "reference": None if selection.reference is None else selection.reference.model_dump(mode="json"),
    }


def _choice_lines(role: str, choice: Choice, selection: Selection, folder: Path) -> list[str]:
    """File, accuracies and costs; against the best one where this is another."""
    best = selection.best if choice is not selection.best else None
    accuracy = choice.model.accuracy
    gain = f" ({100 * (accuracy.val - best.model.accuracy.val):+.2f} points)" if best else ""
    facts = [f"validation {accuracy.val:.2%} ± {accuracy.val_stderr:.2%}{gain}"]
    if accuracy.test is not None:
        facts.append(f"test {accuracy.test:.2%}")
    for name, cost in choice.costs.items():
        if name == "error" and choice.excess <= 1:
            continue  # stands there as accuracy
        change = f" ({cost / best.costs[name] - 1:+.0%})" if best and best.costs[name] and name != "error" else ""
        bound = selection.limits.get(name)
        over = f", {cost / bound:.3g} times the limit" if bound and cost > bound else ""
        tail = " (95th percentile)" if selection.percentile == 95 and name.startswith("latency") else ""
        facts.append(f"{_short(name)} {round_quantity(name, cost)}{tail}{change}{over}")
    facts += [f"{round_quantity('params', choice.model.params)} params"] if "params" not in choice.costs else []
    facts += [f"over the search's own limit on {name}" for name in choice.model.over_limits]
    return [f"{role:<8} {folder / choice.model.file}", f"{'':<8} {'; '.join(facts)}"]


def _short(name: str) -> str:
    return name.partition(".")[0] if name.startswith("latency.") else name
