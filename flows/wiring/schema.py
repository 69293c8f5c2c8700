"""A JSON Schema of the pipelines file, from the grammar's tables and the tasks' signatures, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args

from pydantic import TypeAdapter, WithJsonSchema

from flows.wiring.annotations import annotation
from flows.wiring.catalogue import Catalogue
from flows.wiring.choices import choice_names
from flows.wiring.grammar import (
    ALPHA,
    CONTINUE,
    DEPLOYMENT,
    FILE,
    LOCAL,
    PARAMETER_NAME,
    PIPELINE,
    PIPELINE_NAME,
    PROFILE,
    REFERENCE,
    REPEAT,
    RESERVED,
    SCHEDULE,
    STEP_NAME,
    TRACKING,
)  # fmt: skip
from flows.wiring.model import Group
from flows.wiring.rules import can_train
from flows.wiring.signatures import Param, Signature
from tasks.contract import Choice
from tasks.declarations import Sharding
from tasks.families import LOSSES

Schema = dict[str, Any]

_PARAMETER: Schema = {"type": "string", "pattern": rf"^\$(\$.*|{PARAMETER_NAME})$"}
_REFERENCE: Schema = {"type": "string", "pattern": f"^{REFERENCE.replace('?:', '')}$"}
_FOLDERS: Schema = {"type": "array", "items": {"type": "string"}}
_NULL: Schema = {"type": "null"}


def json_schema(catalogue: Catalogue) -> Schema:
    """The schema of a pipelines file, draft 2020-12. Null is allowed where a variant may remove something."""
    signatures = {**catalogue.tasks, **catalogue.composites}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "alignflow pipelines",
        **_object(FILE, _file()),
        "$defs": {
            "pipeline": _pipeline(),
            "deployment": _deployment(),
            "step": {"anyOf": [{"$ref": "#/$defs/mapping"}, _REFERENCE, _NULL]},
            "mapping": _step(signatures),
            **{_definition(c.folder): _choice(catalogue, c) for c in sorted(catalogue.takers, key=lambda c: c.folder)},
        },
    }


def _object(keys: Mapping[str, str], schemas: Mapping[str, Schema]) -> Schema:
    properties = {key: {"description": text, **schemas[key]} for key, text in keys.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _named(pattern: str, schema: Schema) -> Schema:
    return {"type": ["object", "null"], "patternProperties": {f"^{pattern}$": schema}, "additionalProperties": False}


def _steps() -> Schema:
    reserved = "|".join(RESERVED)
    return _named(f"(?!({reserved})$){STEP_NAME}", {"$ref": "#/$defs/step"})


def _file() -> dict[str, Schema]:
    return {
        "extend": _FOLDERS,
        "pipelines": _named(PIPELINE_NAME, {"$ref": "#/$defs/pipeline"}),
        "profiles": _named(rf"(?!{LOCAL}$){PIPELINE_NAME}", _profile()),
    }


def _profile() -> Schema:
    count: Schema = {"type": "integer", "minimum": 1}
    schemas: dict[str, Schema] = {
        "gpus": count,
        "ranks": {"type": "object", "additionalProperties": count},
        "sharding": {"enum": list(get_args(Sharding)), "default": "auto"},
        "timeout_minutes": {"type": "number", "exclusiveMinimum": 0, "default": 30},
        "tracking": {"type": "array", "items": {"enum": list(TRACKING)}, "minItems": 1, "default": ["mlflow"]},
    }
    return _object(PROFILE, schemas)


def _pipeline() -> Schema:
    schemas: dict[str, Schema] = {
        "about": {"type": ["string", "null"]},
        "extends": {"type": "string", "pattern": f"^([^#]+#)?{PIPELINE_NAME}$"},
        "params": _named(PARAMETER_NAME, {}),
        "steps": _steps(),
        "repeat": {"anyOf": [_object(REPEAT, _repeat()), _NULL]},
        "after": _steps(),
        "deployments": _named(PIPELINE_NAME, {"anyOf": [{"$ref": "#/$defs/deployment"}, _NULL]}),
    }
    return _object(PIPELINE, schemas)


def _repeat() -> dict[str, Schema]:
    return {
        "times": {"anyOf": [{"type": "integer", "minimum": 1}, _PARAMETER, _NULL]},
        "start": _named(STEP_NAME, {"anyOf": [{"type": "string", "pattern": f"^{STEP_NAME}$"}, _NULL]}),
        "each": _named(PARAMETER_NAME, {"anyOf": [{"type": "array", "minItems": 1}, _PARAMETER, _NULL]}),
        "steps": _steps(),
    }


def _deployment() -> Schema:
    gate: dict[str, Schema] = {
        "gate": {"type": "string"},
        "alpha": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": ALPHA},
    }
    schedule = _object(SCHEDULE, {"cron": {"type": "string"}, "timezone": {"type": "string"}})
    schemas: dict[str, Schema] = {
        "schedule": {**schedule, "required": ["cron"]},
        "continue": {"anyOf": [{"enum": ["never", "always"]}, {**_object(CONTINUE, gate), "required": ["gate"]}]},
        "steps": _steps(),
    }
    return _object(DEPLOYMENT, schemas)


def _step(signatures: Mapping[str, Signature]) -> Schema:
    """A step with a task must fit the task; one without changes an inherited step."""
    cases = [
        {"if": {"properties": {"task": {"const": name}}, "required": ["task"]}, "then": _of_task(signature)}
        for name, signature in sorted(signatures.items())
    ]
    tasks = [{"const": name, "description": s.about} for name, s in sorted(signatures.items())]
    return {"type": "object", "properties": {"task": {"anyOf": tasks}}, "allOf": cases}


def _of_task(signature: Signature) -> Schema:
    properties: dict[str, Schema] = {"task": {}}
    for port in signature.ports.values():
        one: list[Schema] = [_REFERENCE, *([_NULL] if port.optional else [])]
        many: list[Schema] = [{"type": "array", "items": {"anyOf": [_REFERENCE, _NULL]}}] if port.is_list else []
        properties[port.name] = {"description": f"a {port}", "anyOf": [*one, *many]}
    properties |= {p.name: _parameter(p) for p in signature.params.values()}
    properties |= {name: _group(group, properties) for name, group in signature.groups.items()}
    grouped = {field for group in signature.groups.values() for field in group.fields}
    required = [p.name for p in signature.ports.values() if not p.optional]
    required += [p.name for p in signature.params.values() if p.required and p.name not in grouped]
    return {"properties": properties, "additionalProperties": False, "required": required}


def _group(group: Group, flat: Mapping[str, Schema]) -> Schema:
    own = {"type": "object", "properties": {f: flat[f] for f in group.fields}, "additionalProperties": False}
    return {"description": f"{', '.join(group.fields)}: as a mapping", "anyOf": [own, _PARAMETER]}


def _parameter(param: Param) -> Schema:
    default = {} if param.required else {"default": param.default}
    text = {"description": param.help} if param.help else {}
    if choice := param.type.choice:
        null = [_NULL] if param.type.optional else []
        schema: Schema = {"anyOf": [{"$ref": f"#/$defs/{_definition(choice.folder)}"}, *null, _PARAMETER]}
    else:
        schema = TypeAdapter(annotation(param.type, _or_parameter)).json_schema()
    return {**text, **default, **schema}


def _or_parameter(form: Any) -> Any:
    """The value, or a pipeline's parameter in its place; a text that begins with $ is a parameter."""
    text = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^(?!\$)"})]
    return Union[text if form is str else form, Annotated[str, WithJsonSchema(_PARAMETER)]]


def _definition(folder: str) -> str:
    return f"choice.{folder.replace('/', '.')}"


def _choice(catalogue: Catalogue, choice: Choice) -> Schema:
    """A name, a name with parameters, or, where there is an `other` choice, any text that is not a name.

    Losses by which no task that takes the choice can train are left out.
    """
    every, takers = catalogue.all_choices(choice.folder), catalogue.takers[choice]
    refused = {s.name for s in every if s.folder in LOSSES and not any(can_train(catalogue, t, s) for t in takers)}
    signatures = {s.name: s for s in every if s.name not in refused}
    names = [name for name in choice_names(catalogue, choice) if name not in refused]
    without = [n for n in names if n not in signatures or not any(p.required for p in signatures[n].params.values())]
    forms: list[Schema] = [{"enum": without}] if without else []
    forms += [_with_parameters(signature) for signature in signatures.values()]
    forms += [{"type": "string", "pattern": r"^(?!\$).*[^A-Za-z0-9_]"}] if choice.other else []
    return {"anyOf": forms}


def _with_parameters(signature: Signature) -> Schema:
    properties = {p.name: _parameter(p) for p in signature.params.values()}
    required = [p.name for p in signature.params.values() if p.required]
    inner = {"type": ["object", "null"], "properties": properties, "additionalProperties": False, "required": required}
    return {
        "type": "object", "description": _about(signature), "properties": {signature.name: inner},
        "required": [signature.name], "additionalProperties": False,
    }  # fmt: skip


def _about(choice: Signature) -> str:
    family = LOSSES.get(choice.folder)
    table = family.table_of(choice.arguments) if family else None
    kinds = f", trained on {' or '.join(table.kinds)}" if table and table.kinds else ""
    return f"{choice.about} One of the {family.about}{kinds}." if family else choice.about
