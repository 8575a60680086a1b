"""/docs: the API's documentation from its own OpenAPI, as one page without scripts; FastAPI's would load them from another host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent / "apidocs_files"
STYLE, STYLE_PATH = FOLDER / "apidocs.css", "/docs/style.css"
JSON = "application/json"


def page(openapi: dict[str, Any], address: str) -> str:
    """HTML. address: where the reader has found the server, for the examples."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kind"] = kind
    return environment.get_template("apidocs.html.j2").render(api=openapi, address=address, style=STYLE_PATH)


def kind(schema: dict[str, Any]) -> str:
    """A schema in a few words.

    >>> kind({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}), kind({"enum": ["a", "b"], "type": "string"})
    ('number > 0 or null', 'a | b')
    >>> kind({"type": "array", "items": {"$ref": "#/components/schemas/One"}})
    'list of One'
    """
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if parts := schema.get("anyOf"):
        return " or ".join(map(kind, parts))
    if values := schema.get("enum"):
        return " | ".join(map(str, values))
    if "prefixItems" in schema:
        return f"({', '.join(map(kind, schema['prefixItems']))})"
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    told = [f"{sign} {schema[bound]:g}" for bound, sign in bounds.items() if bound in schema]
    return " ".join([str(schema.get("const", schema.get("type", "any"))), *told])
