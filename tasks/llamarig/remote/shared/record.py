"""Base of the records that travel as JSON between the control machine and the box.

The annotations of a record are evaluated when it is read, so they are written in a form that Python 3.9 can evaluate:
``Optional[int]``, not ``int | None``.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

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
        problems: list[str] = []
        record = _read(value, cls, cls.__name__, problems)
        if problems:
            raise RecordError(problems[0])
        return cast(R, record)

    @classmethod
    def from_stored(cls: type[R], value: object) -> R:
        """Read a JSON object that another version may have written, or that may be damaged.

        Unknown keys are dropped. A missing or unreadable value becomes the field's default, or else the empty value
        of its type ("", 0, (), {}, None).
        """
        return _read_record(cls, value if isinstance(value, dict) else {}, cls.__name__, [])


def _to_json(value: object) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, (tuple, list)):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _read_record(kind: type[R], value: dict[str, Any], where: str, problems: list[str]) -> R:
    known = {field.name: field for field in fields(kind)}
    keys = {
        "missing": [name for name, field in known.items() if field.default is MISSING and name not in value],
        "unknown": sorted(set(value) - set(known)),
    }
    if any(keys.values()):
        found = "; ".join(f"{what} {', '.join(names)}" for what, names in keys.items() if names)
        problems.append(f"{where}: {found}: another version of llamarig wrote it")
    read: dict[str, Any] = {}
    for name, type_ in get_type_hints(kind).items():
        item = _read(value[name], type_, f"{where}.{name}", problems) if name in value else MISSING
        read[name] = _default(known[name], type_) if item is MISSING else item
    return kind(**read)


def _read(value: object, kind: Any, where: str, problems: list[str]) -> Any:
    """Read a value of the type ``kind``, the annotation of a field. For any other: add a problem, return MISSING."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:  # Optional[...] is the only union in use
        return None if value is None else _read(value, arguments[0], where, problems)
    if kind is Any:
        return value
    if origin is tuple and isinstance(value, list):
        items = [_read(item, arguments[0], f"{where}[{index}]", problems) for index, item in enumerate(value)]
        return tuple(item for item in items if item is not MISSING)
    if origin is dict and isinstance(value, dict):
        found = {key: _read(item, arguments[1], f"{where}[{key!r}]", problems) for key, item in value.items()}
        return {key: item for key, item in found.items() if item is not MISSING}
    if _is_record(kind) and isinstance(value, dict):
        return _read_record(kind, value, where, problems)
    accepted = (int, float) if kind is float else kind
    # bool is a subclass of int.
    if origin is None and isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
        return value
    expected = {tuple: "a list", dict: "an object"}.get(origin) or ("an object" if _is_record(kind) else kind.__name__)
    shown = repr(value)
    problems.append(f"{where}: expected {expected}, found {shown if len(shown) <= 60 else f'{shown[:60]}...'}")
    return MISSING


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
