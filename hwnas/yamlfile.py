"""YAML as people write it: numbers as in YAML 1.2, no key twice, and errors that name file and line."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from spaces.errors import SpecError


def load(path: str | Path) -> Any:
    """What a file holds: mappings, lists, text and numbers; None where it is empty.

    Raises:
        SpecError: It cannot be read, is not YAML, or has a key twice; the message names file and line.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise SpecError(f"there is no file {path}; without a file, the defaults hold") from None
    except IsADirectoryError:
        raise SpecError(f"{path} is a folder, not a specification; images are named by --data {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read as text: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SpecError(f"{path}, line {line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no such date, a number of thousands of digits
        raise SpecError(f"{path} is not YAML: {error}") from error
    except (LookupError, AttributeError) as error:  # what PyYAML makes of !!bool maybe, !!int "" and !!timestamp now
        raise SpecError(f"{path} is not YAML: a value does not fit the type that its !!tag names") from error


def dump(record: Any) -> str:
    """Plain values as YAML, which `load` reads as the same values."""
    return yaml.dump(record, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, of which PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):  # PyYAML refuses the others
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is repeated", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would take for a number."""


# Numbers as in YAML 1.2; PyYAML follows 1.1, where 1e-3 is text and 1:30 is ninety. What is eight there and ten here,
# 010, is text.
_INT = ("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"))
_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"),
)
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (_INT[0], _FLOAT[0])]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in (_INT, _FLOAT):
    _Loader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
    _Dumper.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
