"""Write the reference of all fields into group_data/README.md: `.venv/bin/python -m tests.field_reference`."""

from __future__ import annotations

import re
from pathlib import Path

from llamarig.declare.field_reference import field_reference

README = Path(__file__).resolve().parents[1] / "group_data/README.md"

_BEGIN = "<!-- Generated from the declarations by `.venv/bin/python -m tests.field_reference`: do not edit. -->"
_END = "<!-- End of the generated part. -->"


class MarkerError(ValueError):
    """A document without exactly one generated part."""


def with_reference(document: str, reference: str) -> str:
    """The document with the reference between its two markers, and everything else as it was.

    :raises MarkerError: where the markers are not there once each, in their order
    """
    parts = re.split(rf"^(?:{re.escape(_BEGIN)}|{re.escape(_END)})$", document, flags=re.MULTILINE)
    if len(parts) != 3 or document.find(_BEGIN) > document.find(_END):
        raise MarkerError(f"the document needs one line {_BEGIN!r} and, below it, one line {_END!r}")
    before, _, after = parts
    return f"{before}{_BEGIN}\n\n{reference}\n{_END}{after}"


def main() -> None:
    README.write_text(with_reference(README.read_text(), field_reference()))


if __name__ == "__main__":
    main()
