"""Owns the JSON Schemas of recipes, clusters and pipelines, for editors: completion, meanings, and most mistakes underlined.

They are wider than the loader, which has the last word: a file may extend another, so nothing in it is required, and null resets.
Must not be imported by what runs often: it reads our own sources for the meaning of each key.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import textwrap
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from trainers.config.discovery import available, config_class

from . import sbatch_options
from .schema import Cluster, Recipe

What = Literal["recipe", "cluster", "pipeline"]
KINDS: tuple[What, ...] = ("recipe", "cluster", "pipeline")
Schema = dict[str, Any]
_DRAFT = "http://json-schema.org/draft-07/schema#"
_METHODS, _FAMILIES = "trainers.config.methods", "trainers.config.models"
_TEXT_OR_NUMBER: Schema = {"type": ["string", "integer"]}


def text(what: What) -> str:
    """Return the schema as it is published, with a line end."""
    return json.dumps(schema(what), indent=1) + "\n"


def schema(what: What) -> Schema:
    made = _pipeline() if what == "pipeline" else _cluster() if what == "cluster" else _recipe()
    return {"$schema": _DRAFT, "title": f"fvlaunch {what}", **made}


def _recipe() -> Schema:
    methods = {name: config_class(_METHODS, name) for name in available(_METHODS)}
    families = {name: config_class(_FAMILIES, name) for name in available(_FAMILIES)}
    references, definitions = _definitions([Recipe, *methods.values(), *families.values()])
    kinds = [references[model] for model in methods.values()]
    own_method = {"type": "object", "properties": {"kind": {"type": "string", "pattern": ":"}}, "required": ["kind"]}
    train = definitions["TrainConfig"]["properties"]
    train["method"] = {"anyOf": [*kinds, own_method], "description": train["method"]["description"]}
    own_family = {"type": "object", "properties": {"family": {"type": "string", "pattern": ":"}}, "required": ["family"]}
    roles = {"anyOf": [*[references[model] for model in families.values()], own_family, {"type": "null"}]}
    train["models"] = {"type": "object", "additionalProperties": roles, "description": train["models"]["description"]}
    top = definitions.pop(references[Recipe]["$ref"].rpartition("/")[2])
    return {**top, "properties": {"extends": _extends("Recipes"), **top["properties"]}, "definitions": definitions}


def _cluster() -> Schema:
    references, definitions = _definitions([Cluster])
    top = definitions.pop(references[Cluster]["$ref"].rpartition("/")[2])
    properties = top["properties"]
    options: Schema = {name: {"type": ["boolean", "null"]} for name in sorted(sbatch_options.FLAGS)}
    options |= {name: {"type": ["boolean", "string", "integer", "null"]} for name in sorted(sbatch_options.MAYBE_FLAGS)}
    options |= {name: {"type": ["string", "integer", "null"]} for name in sorted(sbatch_options.WITH_VALUE - sbatch_options.REFUSED.keys())}
    words = {"type": ["array", "string"], "items": {"type": "string"}}
    for block, name, taken in (
        (properties, "slurm", {"type": ["object", "null"], "properties": options, "additionalProperties": False}),
        (properties, "env", {"type": ["object", "null"], "additionalProperties": {"type": ["string", "integer", "null"]}}),
        (definitions["Notify"]["properties"], "command", words),
    ):
        block[name] = {**taken, **{key: block[name][key] for key in ("description", "default") if key in block[name]}}
    return {**top, "properties": {"extends": _extends("Profiles"), **properties}, "definitions": definitions}


def _extends(files: str) -> Schema:
    """Return the property `extends` of a kind of file."""
    meaning = f"{files} that this one is laid over, by name or path: the first at the bottom, this one on top."
    return {"type": ["string", "array", "null"], "items": {"type": "string"}, "default": None, "description": meaning}


def _pipeline() -> Schema:
    reference = {
        "type": "object",
        "description": "What an earlier stage makes: exactly one of export, checkpoint and output.",
        "properties": {
            "stage": {"type": "string", "description": "Name of an earlier stage."},
            "export": {"enum": ["live", "ema"], "default": None, "description": "The folder of its weights, or of their moving average."},
            "checkpoint": {"enum": ["last"], "default": None, "description": "Another word for export: live."},
            "output": {"enum": ["data", "run"], "default": None, "description": "What a preprocess stage wrote, or the run directory."},
            "role": {"type": "string", "default": "student", "description": "Role whose weights are meant."},
        },
    }
    stage = {
        "type": "object",
        "description": "One run: a recipe, and what is changed in it.",
        "additionalProperties": False,
        "required": ["name", "recipe"],
        "properties": {
            "name": {"type": "string", "description": "Name of the stage; its run is PIPELINE/NAME."},
            "recipe": {"type": "string", "description": "The recipe that it runs, by name or path."},
            "set": {
                "type": "object",
                "default": {},
                "additionalProperties": {"anyOf": [reference, {}]},
                "description": "Dotted keys as --set, laid over the recipe; {stage: …} stands for what an earlier stage makes.",
            },
        },
    }
    stages = {"type": "array", "items": stage, "minItems": 1, "description": "The stages, in the order in which they run."}
    properties = {
        "description": {"type": "string", "default": "", "description": "One line that `fvlaunch list pipelines` shows."},
        "stages": stages,
    }
    return {"type": "object", "additionalProperties": False, "required": ["stages"], "properties": properties}


def _definitions(models: list[type[BaseModel]]) -> tuple[dict[type[BaseModel], Schema], dict[str, Schema]]:
    """Return each model's reference, and all definitions: loosened, and with what our sources say of each key."""
    references, made = models_json_schema([(model, "validation") for model in models], ref_template="#/definitions/{model}")
    definitions: dict[str, Schema] = made["$defs"]
    for model in _all_models(models):
        for name, definition in definitions.items():
            if name.rpartition("__")[2] == model.__name__ and definition.get("properties", {}).keys() == model.model_fields.keys():
                _explain(definition, model)
    for definition in definitions.values():
        _loosen(definition)
    return {model: references[model, "validation"] for model in models}, definitions


def _all_models(models: list[type[BaseModel]]) -> list[type[BaseModel]]:
    """Return every section class of ours that is loaded."""
    for package in (_METHODS, _FAMILIES):
        for name in available(package):
            importlib.import_module(f"{package}.{name.replace('-', '_')}")
    sections, queue = dict.fromkeys(models), [BaseModel]
    while queue:
        for child in queue.pop().__subclasses__():
            queue.append(child)
            if child.__module__.startswith(("trainers.config", "fvlaunch.config")):
                sections[child] = None
    return list(sections)


def _explain(definition: Schema, model: type[BaseModel]) -> None:
    for owner in reversed(model.__mro__):
        if owner.__module__.startswith(("trainers.config", "fvlaunch.config")):
            for name, meaning in _meanings(owner).items():
                if name in definition["properties"]:
                    definition["properties"][name]["description"] = " ".join(meaning.split())


def _meanings(owner: type) -> dict[str, str]:
    """Return the text under each field of a class."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(body, ast.ClassDef)
    meanings = {}
    for field, said in zip(body.body, body.body[1:], strict=False):
        is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if is_field and isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str):
            meanings[field.target.id] = said.value.value  # type: ignore[attr-defined]
    return meanings


def _loosen(definition: Schema) -> None:
    """Nothing is required, null resets a key, and a time may be written as a number of minutes."""
    definition.pop("required", None)
    definition.pop("title", None)
    for name, value in definition.get("properties", {}).items():
        value.pop("title", None)
        if name == "time":
            value.pop("anyOf", None)
            value.update(_TEXT_OR_NUMBER)
        if "const" in value:  # an editor that knows the kind knows which keys go with it
            continue
        description = {key: value.pop(key) for key in ("description", "default") if key in value}
        if value and value.get("type") != "null" and {"type": "null"} not in value.get("anyOf", ()):
            definition["properties"][name] = {"anyOf": [dict(value), {"type": "null"}], **description}
        else:
            definition["properties"][name] = {**value, **description}
