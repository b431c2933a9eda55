import inspect
import re
import subprocess
import sys
from dataclasses import fields
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from hwnas.lemonade import Lemonade
from hwnas.searchsection import LEMONADES, StrategyName
from hwnas.sections import parse_budget
from hwnas.spec import Spec
from latency.deployment import Deployment
from objectives.data import load_data
from objectives.recipe import Recipe
from spaces.cellspace import CellSpace
from spaces.errors import SpecError
from spaces.plain import PlainSpace


def refusal(text, tmp_path):
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(SpecError) as refused:
        Spec.load(tmp_path / "spec.yaml")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'spec.yaml'}")
    return message.removeprefix(f"{tmp_path / 'spec.yaml'}").removeprefix(": ")


# Budgets


def test_budgets():
    assert (parse_budget("30m").time, parse_budget("30m").trainings) == (1800, None)
    assert (parse_budget("200").time, parse_budget(200).trainings) == (None, 200)
    for wrong in ("0", "soon", "-3", 0, True, "2.5.1", "9" * 5000):
        with pytest.raises(SpecError, match=re.escape(f"budget is {wrong!r}; write a duration such as 30m, or a num")):
            parse_budget(wrong)


# Files


def test_an_empty_file_is_the_default(tmp_path):
    (tmp_path / "spec.yaml").write_text("# nothing to say\n")
    assert Spec.load(tmp_path / "spec.yaml") == Spec()


def test_a_whole_file(tmp_path):
    (tmp_path / "spec.yaml").write_text(
        """
data: {source: cifar10, train_limit: 10k, metric: balanced-accuracy}
space: {max_params: 1M, separable: no}
objectives: [latency, peak_memory]
limits:
  latency: 3ms
  peak_memory: 64KB
budget: 1h30m
search: {epochs: 2, inherit: off}
training: {lr: 5e-2, ema: 0.99, flip: true}
final: {models: 4, epochs: 30}
seed: 7
"""
    )
    spec = Spec.load(tmp_path / "spec.yaml")
    assert (spec.data.source, spec.data.train_limit, spec.data.metric) == ("cifar10", 10_000, "balanced-accuracy")
    assert (spec.space.max_params, spec.space.separable, spec.space.skips) == (1_000_000, False, True)
    assert spec.objectives == ["error", "latency", "peak_memory"], "the error is always an objective"
    assert spec.limits == {"latency": 3, "peak_memory": 65536}
    assert (spec.budget.time, spec.budget.trainings) == (5400, None)
    assert (spec.search.epochs, spec.search.inherit) == (2, False)
    assert (spec.training.lr, spec.training.ema, spec.training.flip) == (0.05, 0.99, True)
    assert (spec.final.models, spec.final.epochs, spec.seed) == (4, 30, 7)

    (tmp_path / "again.yaml").write_text(spec.dump())
    assert Spec.load(tmp_path / "again.yaml") == spec
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-2", 0.05), (".5", 0.5), ("1.", 1), ("1", 1), ("1e-1", 0.1), ("0.05", 0.05), ("1_0", 10), ("+2.5E+0", 2.5)],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path, text, value):
    (tmp_path / "spec.yaml").write_text(f"training: {{lr: {text}}}")
    assert Spec.load(tmp_path / "spec.yaml").training.lr == value


def test_a_dump_is_complete_and_readable():
    text = Spec.from_json({"limits": {"latency": 3}, "space": {"max_params": 200_000}}).dump()
    assert list(yaml.safe_load(text)) == list(Spec.model_fields)
    for line in ("  latency: 3ms", "  time: 2m", "  trainings: null", "  max_params: 200k", "  flip: auto"):
        assert line in text.splitlines()


def test_a_dump_says_what_every_key_means():
    lines = Spec().dump().splitlines()
    keys = [i for i, line in enumerate(lines) if not line.lstrip().startswith(("#", "- "))]
    assert len(keys) > 60
    for i in keys:
        assert lines[i - 1].lstrip().startswith("# "), lines[i]


@pytest.mark.parametrize(
    "source",
    ["1e3", "12", "010", "1:30", ".5", "1_0", "true", "null", "~/my photos: all", "größe", "2024-01-01", "-", ""],
)
def test_any_folder_name_survives_the_dump(tmp_path, source):
    spec = Spec().resolve({"data.source": source})
    (tmp_path / "spec.yaml").write_text(spec.dump(), encoding="utf-8")
    assert Spec.load(tmp_path / "spec.yaml") == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epoch: 3}", "training.epoch: unknown key; did you mean search.epochs or final.epochs?"),
        ("search: {proposal: 3}", "search.proposal: unknown key; did you mean proposals?"),
        ("serach: {}", "serach: unknown key; did you mean search?"),
        ("max_width: 64", "max_width: unknown key; did you mean space.max_width?"),
        ("final: {zzz: 1}", "final.zzz: unknown key; known are models, share, epochs, references"),
        ("1: 2", "1 is no key; keys are text"),
        ("training: {lr: fast}", "training.lr is 'fast'; it must be a number"),
        ("training: {lr: 0}", "training.lr is 0; it must be above 0"),
        ("training: {lr: .inf}", "training.lr is inf; it must be a finite number"),
        ("training: {momentum: 1.0}", "training.momentum is 1.0; it must be below 1"),
        ("training: {distill_weight: 2}", "training.distill_weight is 2; it must be at most 1"),
        ("training: {flip: maybe}", "training.flip is 'maybe'; it must be one of true, false or 'auto'"),
        ("training: {channels_last: 1}", "training.channels_last is 1; it must be true or false"),
        ("seed: yes", "seed is True; it must be a whole number"),
        ("seed: -1", "seed is -1; it must be at least 0"),
        ("final: {models: 2.5}", "final.models is 2.5; it must be a whole number"),
        ("data: {source: 5}", "data.source is 5; it must be text"),
        ("data: {metric: f1}", "data.metric is 'f1'; it must be one of 'accuracy' or 'balanced-accuracy'"),
        ("data: {train_limit: many}", "data.train_limit: 'many' is no whole number above 0, such as 5000 or 200k"),
        ("data: {train_limit: 1.2345k}", "data.train_limit: '1.2345k' is no whole number above 0"),
        ("data: 5", "data is 5; it must be a mapping with keys of source, image_size"),
        ("- 1\n- 2", "the specification is [1, 2]; it must be a mapping with keys of data, space"),
        ("objectives: error", "objectives is 'error'; it must be a list"),
        ("objectives: [error, 5]", "objectives[1] is 5; it must be text"),
        ("objectives: [flop]", "objectives: 'flop' is no objective; known are error, params"),
        ("objectives: [parms]", "objectives: 'parms' is no objective; did you mean params?"),
        ("objectives: [error]", "objectives: error alone has a best network but no front; add one or more of params"),
        ("limits: 3ms", "limits is '3ms'; it must be a mapping with keys of objective: value"),
        (
            "limits: {latency: fast}",
            "limits: latency is 'fast'; it must be a value above 0 in s or ms or us, such as 3ms or 500us",
        ),
        ("limits: {latencie: 3ms}", "limits: 'latencie' is no objective; did you mean latency?"),
        (
            "limits: {peak_memory: 2MB}",
            "limits: peak_memory is not among the objectives (params, macs, latency); add it to them",
        ),
        ("limits: {error: 5%}", "limits: error is known only after training, so it cannot bound the search; choose by"),
        ("budget: soon", "budget is 'soon'; write a duration such as 30m, or a number of trainings such as 200"),
        ("budget: 1:30", "budget is '1:30'; write a duration such as 30m"),
        ("seed: 010", "seed is '010'; it must be a whole number"),
        ("budget: {time: soon}", "budget.time: 'soon' is no duration above 0; write 90s, 30m, 1h30m"),
        ("budget: {}", "budget: neither time nor trainings is given, so the search would never end; give one"),
        ("budget: {trainings: 0}", "budget.trainings: 0 is no whole number above 0"),
        ("space: {min_width: 9, max_width: 8}", "space: min_width is 9, more than max_width, which is 8"),
        ("seed: 1\nseed: 2", ", line 2: the key seed is repeated"),
        ("data: {source: a, source: b}", ", line 1: the key source is repeated"),
        ("data: [1", ", line 1: expected ',' or ']', but got '<stream end>'"),
        ("a: \x01", "is not YAML"),
        ("? [a, b]\n: c", ", line 1: found unhashable key"),
        ("? {a: b}\n: c", ", line 1: found unhashable key"),
        ("data: {source: 2024-02-30}", "is not YAML: day is out of range for month"),
        (f"seed: {'9' * 5000}", "is not YAML: Exceeds the limit"),
        ("seed: 99999999999999999999999", "seed is 99999999999999999999999; it must be below 9.22337e+18"),
    ],
)
def test_wrong_files_are_refused_with_place_value_and_rule(tmp_path, text, message):
    assert message in refusal(text, tmp_path)


def test_every_mistake_is_told_at_once(tmp_path):
    message = refusal("seed: x\ntraining: {lr: 0, decay: 1}", tmp_path)
    assert message.splitlines() == [
        "training.lr is 0; it must be above 0",
        "training.decay: unknown key; did you mean weight_decay?",
        "seed is 'x'; it must be a whole number",
    ]


def test_unreadable_files(tmp_path):
    with pytest.raises(SpecError, match=r"there is no file .*nowhere\.yaml; without a file, the defaults hold"):
        Spec.load(tmp_path / "nowhere.yaml")
    (tmp_path / "spec.yaml").write_bytes(b"data: {source: \xff}")
    with pytest.raises(SpecError, match=r"spec\.yaml cannot be read as text: 'utf-8' codec"):
        Spec.load(tmp_path / "spec.yaml")


# Overrides


def test_overrides_replace_keys_and_nothing_else():
    base = Spec().resolve({"search.epochs": 2.0})
    spec = base.resolve({"data.source": "cifar10", "budget": "200", "limits.params": "200k"})
    assert spec.data.source == "cifar10"
    assert (spec.budget.time, spec.budget.trainings) == (None, 200)
    assert spec.limits == {"params": 200_000}
    assert spec.search == base.search
    assert base == Spec().resolve({"search.epochs": 2.0}), "a specification is never changed"
    assert spec.resolve({}) == spec


def test_wrong_overrides():
    with pytest.raises(SpecError, match=r"data.sources: unknown key; did you mean source\?"):
        Spec().resolve({"data.sources": "cifar10"})
    with pytest.raises(SpecError, match=r"trainig: unknown key; did you mean training\?"):
        Spec().resolve({"trainig.lr": 0.1})
    with pytest.raises(SpecError, match=r"seed\.x: seed is a single value and has no keys"):
        Spec().resolve({"seed.x": 1})


def test_a_specification_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Spec().seed = 3


# The rooms that the sections configure


PLAIN_KEYS = {field.name for field in fields(PlainSpace)} - {"image", "classes"}
STUDY_KEYS = {"strategy", "children", "trainings", "workers"}


def arguments(function):
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("section", "own", "function", "theirs"),
    [
        ("data", {"metric"}, load_data, {"seed", "progress"}),
        ("space", {"kind", "channels", "cells"}, PlainSpace, {"image", "classes", "shrinks_by"}),
        ("space", {"kind", *PLAIN_KEYS}, CellSpace, {"image", "classes", "shrinks_by"}),
        ("deployment", set(), Deployment.here, set()),
        ("training", set(), Recipe, {"epochs", "seed"}),
        (
            "search",
            STUDY_KEYS | {"explore", "population", "starts", "proxies", "discard", "promotion", "factor", "curves"},
            Lemonade,
            {"space", "costs", "objectives", "seed", "prefilter"},
        ),
    ],
)
def test_sections_have_the_keys_of_what_they_configure(section, own, function, theirs):
    keys = set(Spec().to_json()[section])
    assert keys - own == arguments(function) - theirs


def test_sections_have_the_defaults_of_what_they_configure():
    spec = Spec()
    rooms = {"space": [PlainSpace, CellSpace], "deployment": [Deployment.here], "data": [load_data]}
    for section, function in ((section, one) for section, functions in rooms.items() for one in functions):
        parameters = inspect.signature(function).parameters
        for key, value in getattr(spec, section):
            if key in parameters and key not in ("source", "download"):
                assert value == parameters[key].default, f"{section}.{key}"
    defaults = {field.name: field.default for field in fields(Recipe)}
    assert {key: value for key, value in spec.training if key != "flip"}.items() <= defaults.items()


def test_a_kind_of_space_has_its_own_keys():
    cells = Spec.from_json({"space": {"kind": "cell", "cells": 2}}).space
    assert cells.of_kind() == {"channels": 16, "cells": 2}
    assert set(Spec().space.of_kind()) == PLAIN_KEYS
    for section in ({"kind": "cell", "max_depth": 9}, {"cells": 2}):
        with pytest.raises(SpecError, match=r"space: \w+ is no key of a space of kind \w+; its keys are \w+"):
            Spec.from_json({"space": section})


def test_a_strategy_has_its_own_options():
    of_lemonade = {"revisit", "inherit", "paper_density", "max_parents"}
    for name in get_args(StrategyName):
        of_baseline = set() if name.startswith("optuna") else {"starts"}
        options = Spec.from_json({"search": {"strategy": name}}).search.options()
        assert set(options) == (of_lemonade if name in LEMONADES else of_baseline)
    evolution = Spec.from_json({"search": {"strategy": "nsga2", "population": 16, "starts": True}}).search
    assert evolution.options() == {"population": 16, "starts": True}
    surrogate = Spec.from_json({"search": {"strategy": "surrogate", "explore": 0.2, "proposals": 5}}).search
    assert surrogate.options().items() >= {"explore": 0.2, "proposals": 5}.items()
    assert surrogate.inherits


@pytest.mark.parametrize(
    ("strategy", "key", "value"),
    [
        ("lemonade", "explore", 1),
        ("lemonade", "population", 8),
        ("surrogate", "starts", True),
        ("optuna-tpe", "starts", True),
        ("random", "population", 8),
        ("nsga2", "proposals", 5),
        ("nsga2", "revisit", 0.5),
        ("random", "initial_epochs", 3.0),
    ],
)
def test_options_of_other_strategies_are_refused(strategy, key, value):
    with pytest.raises(SpecError, match=f"search: {key} is of no use to the strategy {strategy}; it is to "):
        Spec.from_json({"search": {"strategy": strategy, key: value}})


def test_training_refuses_what_the_recipe_refuses():
    for key, wrong in [
        ("batch_size", 1),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("schedule", "linear"),
        ("warmup", 1.0),
        ("label_smoothing", 1.0),
        ("shift", 1.0),
        ("precision", "fp16"),
        ("ema", 1.0),
        ("distill_weight", 1.5),
        ("temperature", 0.0),
        ("clip", 0.0),
    ]:
        with pytest.raises(SpecError, match=f"recipe: {key} is"):
            Recipe(**{key: wrong})
        with pytest.raises(SpecError, match=rf"training\.{key} is {wrong!r}"):
            Spec.from_json({"training": {key: wrong}})


@pytest.mark.parametrize(
    ("source", "flip"),
    [
        ("digits", False),
        ("MNIST", False),
        ("svhn", False),
        ("CIFAR-10", True),
        ("fashion_mnist", True),
        ("./pets", True),
    ],
)
def test_images_are_mirrored_unless_they_are_digits(source, flip):
    spec = Spec().resolve({"data.source": source})
    assert spec.recipe(epochs=3, seed=1) == Recipe(epochs=3, seed=1, flip=flip)
    assert spec.resolve({"training.flip": True}).recipe(3, 1).flip is True
    assert spec.resolve({"training.flip": False}).recipe(3, 1).flip is False


def test_reading_a_specification_does_not_start_torch():
    code = "import sys; from hwnas.spec import Spec; Spec().dump(); print('torch' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "False\n"


def test_overrides_are_left_as_they_were():
    overrides = {"budget": {"time": "30m"}, "budget.trainings": 7}
    assert Spec().resolve(overrides).budget.trainings == 7
    assert overrides == {"budget": {"time": "30m"}, "budget.trainings": 7}


def test_a_folder_is_no_specification(tmp_path):
    with pytest.raises(SpecError, match=f"{tmp_path} is a folder, not a specification; images are named by --data"):
        Spec.load(tmp_path)
