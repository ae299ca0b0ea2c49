"""Which class of the config each category of a file of objects is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from distseg.config.schema import Config
from distseg.functional.naming import as_name
from distseg.records.errors import UserError, unknown

Id = int | str


def class_places(
    config: Config, path: Path, categories: Mapping[Id, str], used: Collection[Id], key: str
) -> dict[Id, int]:
    """The class of each category; the number of the classes where it counts nowhere.

    path: the file that names the categories. used: those that an object has. key: of the config's
    `data`, whose `other_categories` says what those are that no class names.

    UserError: a class that is no category, or objects of one that is no class.
    """
    names, classes = list(categories.values()), config.classes
    known = {name: number for number, name in enumerate(classes)}
    places = {own: _place(own, name, known) for own, name in categories.items()}
    held = [own for own in categories if own in used]
    lacking = [name for number, name in enumerate(classes) if number not in places.values()]
    if config.task == "binary" and lacking and len(held) == 1:
        places[held[0]], lacking = 0, []  # whatever it is called
    if config.task == "multiclass" and lacking[:1] == classes[:1]:
        del lacking[0]  # the background
    if lacking:
        raise unknown("category", lacking[0], map(as_name, names), f"classes: {path}: ")
    others = [categories[own] for own in held if places[own] is None]
    meaning = getattr(config.data, key).other_categories
    if others and meaning == "refuse":
        raise UserError(
            f"classes: {path}: has objects of {', '.join(others[:8])}, which are no classes; "
            f"add them, or write data.{key}.other_categories: background or void"
        )
    void = len(classes) if meaning == "void" else None
    found = {own: void if place is None else place for own, place in places.items()}
    return {own: place for own, place in found.items() if place is not None}


def _place(own: Id, name: str, known: Mapping[str, int]) -> int | None:
    """The class of a category: by its name, as it is or as a config may write it, or by its id."""
    return next((known[one] for one in (name, as_name(name), str(own)) if one in known), None)


def objects_of(
    config: Config, shapes: Mapping[Id, Sequence[str]], places: Mapping[Id, int]
) -> list[list[str]]:
    """The shapes of an image's categories by class, and last those that count nowhere."""
    objects: list[list[str]] = [[] for _ in range(len(config.classes) + 1)]
    for category, texts in shapes.items():
        if category in places:
            objects[places[category]] += texts
    return objects


def detected_labels(categories: Mapping[Id, str], used: Collection[Id]) -> dict[str, object]:
    """The task and the classes of a config: the categories of which there are objects."""
    names = [as_name(name) or str(own) for own, name in categories.items() if own in used]
    return {"task": "binary" if len(names) == 1 else "multilabel", "classes": names}
