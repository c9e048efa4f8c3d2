"""Owns what `tiny: true` lays over a recipe: the same code at a laptop's size, with the tiny-wan that needs no download. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import Place
from .merge import merge
from .strict_yaml import Node
from .values import boolean

ORIGIN = Place("tiny: true")
MODEL, EXPERTS = "tiny-wan", "tiny-wan-a14b"
"""Built on first use: one network, and the two experts of an A14B."""
_CLIP = {"num_frames": 9, "height": 32, "width": 32}
_TILE = (1, 2, 2)
"""A frame of that clip: three tiles."""
_FPS = 2
"""So that nine frames show about as much of a clip as 77 do at 16."""
_BATCH = {"text_len": 32, "global_batch_size": 2, "micro_batch_size": None, "workers": 0}


def is_asked_for(recipe: Node) -> bool:
    """Say whether `tiny` is on, in any of the words that mean yes; what is no boolean is refused when the recipe is typed."""
    flag = recipe.value.get("tiny") if isinstance(recipe.value, dict) else None
    return flag is not None and boolean(flag.value) is True


def shrink(recipe: Node) -> Node:
    """Return the recipe with every network, clip and batch replaced, and data of that size in a folder of its own.

    One that trains on the moving shapes is of a laptop's size as it is, and its clips come in one size: it is returned unchanged.
    """
    if _trains_on_shapes(recipe):
        return recipe
    layer: dict[str, Any] = {"resources": {"ranks": 1}}
    if train := _block(recipe, "train"):
        data = {**_CLIP, **_BATCH, **_folder(_block(train["data"], "") if "data" in train else {}, "path")}
        roles = _block(train["models"], "") if "models" in train else {}
        models = {role: {**_small(_block(roles[role], "")), **_tiles(train, role)} for role in _references(train)}
        layer["train"] = {"precision": "fp32", "parallel": {"replicate": None, "shard": None}, "data": data, "models": models}
        if cache := _folder(_block(train["method"], "") if "method" in train else {}, "cache"):  # another teacher's trajectories
            layer["train"]["method"] = cache
    if preprocess := _block(recipe, "preprocess"):
        sizes = {**_CLIP, "fps": _FPS} if _text(preprocess, "kind") == "videos" else {}
        layer["preprocess"] = {"model": MODEL, "revision": None, "dtype": "fp32", **sizes, **_folder(preprocess, "output")}
    return replace(merge(recipe, _node(layer)), place=recipe.place)


def _trains_on_shapes(recipe: Node) -> bool:
    data = _block(recipe, "train").get("data")
    prepare = _block(data, "").get("prepare") if data is not None else None
    return prepare is not None and prepare.value is not None


def _block(node: Node, name: str) -> dict[str, Node]:
    """Return a mapping's items, or those of the mapping that it holds under a name; empty where there is none."""
    found = node.value.get(name) if name else node
    return found.value if found is not None and isinstance(found.value, dict) else {}


def _references(train: dict[str, Node]) -> dict[str, str]:
    """init_from by role. Networks of random weights are as small as their recipe says."""
    roles = _block(train["models"], "") if "models" in train else {}
    found = {role: _text(_block(model, ""), "init_from") for role, model in roles.items()}
    return {role: name for role, name in found.items() if name}


def _small(model: dict[str, Node]) -> dict[str, Any]:
    """Return what a role starts from, each of its experts too where these are named apart."""
    both = EXPERTS if _text(model, "family").endswith("a14b") else _model(_text(model, "init_from"))
    apart = _block(model["experts"], "") if "experts" in model else {}
    experts = {name: {"init_from": EXPERTS, "revision": None} for name, block in apart.items() if _text(_block(block, ""), "init_from")}
    return {"init_from": both, "revision": None, **({"experts": experts} if experts else {})}


def _tiles(train: dict[str, Node], role: str) -> dict[str, Any]:
    """Return sparse attention's tiles for the grid of the small clip."""
    model = _block(_block(train["models"], "")[role], "")
    sparse = "attention" in model and _text(_block(model["attention"], ""), "kind") == "vsa"
    return {"attention": {"tile": list(_TILE), "backend": "auto"}} if sparse else {}


def _model(reference: str) -> str:
    return EXPERTS if "A14B" in reference else MODEL


def _folder(block: dict[str, Node], key: str) -> dict[str, str]:
    """Return a folder of its own: data of another size must not be mixed with the real one's."""
    name = _text(block, key)
    return {key: f"{name.rstrip('/')}-tiny"} if name and not name.endswith("-tiny") else {}


def _text(block: dict[str, Node], key: str) -> str:
    value = block[key].value if key in block else None
    return value if isinstance(value, str) else ""


def _node(value: Any) -> Node:
    if isinstance(value, list):
        return Node([_node(item) for item in value], ORIGIN)
    return Node({key: _node(item) for key, item in value.items()} if isinstance(value, dict) else value, ORIGIN)
