"""A message is one line that any terminal can show, whatever the names in it hold."""

import pytest

from linnaeus.core.errors import one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'a\nb' is missing", r"'a\nb' is missing"),
        ("\x1b[31mred\r", r"\x1b[31mred\r"),
        ("b\udcff.jpg", r"b\udcff.jpg"),
        ("é 猫 🐈 — C:\\n", "é 猫 🐈 — C:\\n"),
    ],
)
def test_control_characters_become_escapes_and_letters_stay(text, shown):
    assert one_line(text) == shown
