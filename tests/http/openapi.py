"""`openapi.yaml` as something to hold answers against."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml
from openapi_schema_validator import OAS31Validator

from holdfast_coordinator.http import openapi_document

DOCUMENT: dict[str, Any] = yaml.safe_load(openapi_document())
SCHEMAS = DOCUMENT["components"]["schemas"]


@cache
def validator(name: str) -> Any:
    """Of the schema `name`; `.schema` is that schema, `.validate(value)` raises."""
    return OAS31Validator({**SCHEMAS[name], "components": DOCUMENT["components"]})
