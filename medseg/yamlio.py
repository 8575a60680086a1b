"""YAML in and out: safe loading with duplicate keys refused, and one canonical way of writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from medseg.errors import MedsegError


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which plain YAML silently takes the last of."""


def _mapping_without_repeats(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)


def read_yaml(path: Path, error: type[MedsegError]) -> dict[str, Any]:
    """Read a YAML mapping; raises `error` for a missing file, broken YAML or anything but a mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise error(path, "there is no such file", "check the path") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise error(path, f"cannot be read ({cause})", "check that it is a text file") from None
    except (yaml.YAMLError, ValueError, TypeError) as cause:
        raise error(path, f"not valid YAML ({' '.join(str(cause).split())})", "correct the line named") from None
    if not isinstance(content, dict):
        raise error(path, "must hold a mapping of keys to values", "see docs/ for the layout")
    return content


def parse_value(text: str) -> Any:
    """One override's value, read as YAML: `0.1` a float, `[1, 2]` a list, `null` None."""
    return yaml.load(text, Loader=_StrictLoader)


def dump_yaml(content: Any) -> str:
    """Canonical YAML: keys in the order given, block style, no aliases."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def telling(cause: ValidationError) -> ErrorDetails:
    """The first thing pydantic found; where that is a missing key, an unknown one beside it comes before: it may be the same, misspelt."""
    first, *others = cause.errors()
    beside = [each for each in others if each["type"] == "extra_forbidden" and each["loc"][:-1] == first["loc"][:-1]]
    return beside[0] if first["type"] == "missing" and beside else first


def first_problem(cause: ValidationError) -> tuple[str, str]:
    """(dotted key, message) of what `telling` chooses."""
    problem = telling(cause)
    key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    value = problem.get("input")
    message = str(problem["msg"]).removeprefix("Value error, ")
    shown = f", got {value!r}" if isinstance(value, str | int | float | bool) else ""
    return key, message + shown
