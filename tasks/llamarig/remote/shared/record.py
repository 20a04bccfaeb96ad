"""Base of the records that travel as JSON between the control machine and the box.

Runs on both sides: Python 3.9 or newer, standard library only. The annotations of a record are evaluated when it is
read, so they are written in a form that Python 3.9 can evaluate: ``Optional[int]``, not ``int | None``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R", bound="Record")


class RecordError(ValueError):
    """A JSON value is not the record that was expected; the message names the record and the key."""


@dataclass(frozen=True)
class Record:
    """A JSON object with a fixed set of keys: the names of the dataclass's fields.

    A field with a default is optional: its key may be missing, and is not written while it has that default.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object; keys in the order of the fields."""
        return {
            field.name: _to_json(getattr(self, field.name))
            for field in fields(self)
            if field.default is MISSING or getattr(self, field.name) != field.default
        }

    @classmethod
    def from_json(cls: type[R], value: object) -> R:
        """Read a JSON object written by the same version of llamarig.

        :raises RecordError: for an unknown key, a missing key or a value of another type
        """
        return _read_record(cls, value, cls.__name__, lenient=False)

    @classmethod
    def from_stored(cls: type[R], value: object) -> R:
        """Read a JSON object that another version may have written, or that may be damaged.

        Unknown keys are dropped. A missing or unreadable value becomes the field's default, or else the empty value
        of its type ("", 0, (), {}, None).
        """
        return _read_record(cls, value if isinstance(value, dict) else {}, cls.__name__, lenient=True)


def _to_json(value: object) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, (tuple, list)):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _read_record(kind: type[R], value: object, where: str, *, lenient: bool) -> R:
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected an object, found {_shown(value)}")
    types, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    if not lenient:
        _check_keys(value, known.values(), where)
    read: dict[str, Any] = {}
    for name, field in known.items():
        try:
            if name in value:
                read[name] = _read(value[name], types[name], f"{where}.{name}", lenient=lenient)
        except RecordError:
            if not lenient:
                raise
        if name not in read and lenient:
            read[name] = _default(field, types[name])
    return kind(**read)


def _check_keys(value: dict[str, Any], known: Collection[Field[Any]], where: str) -> None:
    problems = {
        "missing": [field.name for field in known if field.default is MISSING and field.name not in value],
        "unknown": sorted(set(value) - {field.name for field in known}),
    }
    if any(problems.values()):
        found = "; ".join(f"{problem} {', '.join(keys)}" for problem, keys in problems.items() if keys)
        raise RecordError(f"{where}: {found}: another version of llamarig wrote it")


def _read(value: object, kind: Any, where: str, *, lenient: bool) -> Any:
    """Read a value of the type ``kind``, which is the annotation of a field.

    :raises RecordError: for a value of another type
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:  # Optional[...] is the only union in use
        return None if value is None else _read(value, arguments[0], where, lenient=lenient)
    if origin is tuple and isinstance(value, list):
        return tuple(_read_items(enumerate(value), arguments[0], where, lenient).values())
    if origin is dict and isinstance(value, dict):
        return _read_items(value.items(), arguments[1], where, lenient)
    if kind is Any:
        return value
    if _is_record(kind):
        return _read_record(kind, value, where, lenient=lenient)
    accepted = (int, float) if kind is float else kind
    # bool is a subclass of int.
    if origin is None and isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
        return value
    raise RecordError(f"{where}: expected {_type_name(origin or kind)}, found {_shown(value)}")


def _read_items(items: Any, kind: Any, where: str, lenient: bool) -> dict[Any, Any]:
    """Read the items of a list or an object, by index or key; where lenient, leave out the unreadable ones."""
    read = {}
    for key, item in items:
        try:
            read[key] = _read(item, kind, f"{where}[{key!r}]", lenient=lenient)
        except RecordError:
            if not lenient:
                raise
    return read


def _default(field: Field[Any], kind: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    if get_origin(kind) is Union:
        return None
    if _is_record(kind):
        return kind.from_stored({})
    return (get_origin(kind) or kind)()


def _is_record(kind: Any) -> bool:
    # Before Python 3.11, tuple[int] is an instance of type as well, and issubclass rejects it.
    return get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, Record)


def _type_name(kind: Any) -> str:
    return {tuple: "a list", dict: "an object"}.get(kind, f"{kind.__name__}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
