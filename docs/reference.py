"""medseg.config -> the table of keys in docs/experiments.md, between its two marks.

python docs/reference.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic_core import PydanticUndefined

from medseg.config import Config, NetworkConfig
from medseg.config.model import EVERY, names_of
from medseg.config.section import Section, section_of
from medseg.files import write_text

PAGE = Path(__file__).parent / "experiments.md"
START, END = "<!-- keys: written by `make reference` -->", "<!-- end of keys -->"


def key_table() -> str:
    """Every key with its type, default and meaning, a heading a section."""
    text = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Config.model_fields.items():
        if name == "model":
            text += _networks()
        elif section := section_of(field.annotation):
            text += _section(name, section)
        else:
            text.append(_line(name, field))
    return "\n".join(text)


def _section(name: str, section: type[Section]) -> list[str]:
    """Its keys, then those of the sections within it; of a list of sections each entry has them."""
    text = [f"| **{name}** | | | {' '.join((section.__doc__ or '').split())} |"]
    text += [_line(f"{name}.{key}", field) for key, field in section.model_fields.items()]
    for key, field in section.model_fields.items():
        if inner := section_of(field.annotation):
            text += _section(f"{name}.{key}{'[]' if get_origin(field.annotation) is tuple else ''}", inner)
    return text


def _networks() -> list[str]:
    """The keys of every network first, then those of each alone."""
    text = [f"| **model** | | | {' '.join((NetworkConfig.__doc__ or '').split())} |"]
    text += [_line(f"model.{key}", field) for key, field in NetworkConfig.model_fields.items()]
    for network in EVERY:
        names = ", ".join(f"`{name}`" for name in names_of(network)) or "by a name of several parts"
        text.append(f"| **model** {names} | | | {' '.join((network.__doc__ or '').split())} |")
        text += [_line(f"model.{key}", network.model_fields[key]) for key in network.model_fields if key not in NetworkConfig.model_fields]
    return text


def _line(key: str, field: Any) -> str:
    undefined = "" if key == "name" else "required"
    default = undefined if field.default is PydanticUndefined else f"`{json.dumps(field.default, default=_given)}`"
    return f"| `{key}` | {_type(field.annotation)} | {default} | {field.description or ''} |"


def _given(section: Section) -> dict[str, Any]:
    return section.model_dump(exclude_none=True)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        return "" if annotation is type(None) else annotation.__name__
    if str(origin) == "typing.Literal":
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return "list of " + _type(arguments[0])
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is Annotated:
        return _type(arguments[0])
    names = [name for argument in arguments if (name := _type(argument))]
    return " or ".join([*names, "null"] if type(None) in arguments else names)


def with_table(page: str) -> str:
    """The page with its table made anew."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{key_table()}\n\n{END}{after}"


if __name__ == "__main__":
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8")))
    print(PAGE)
