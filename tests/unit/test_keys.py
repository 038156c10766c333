"""Keys: text and chords to key codes."""

from __future__ import annotations

import pytest

from labd.model.errors import InputError
from labd.model.keys import chords_of, parse_chord, presses


def test_every_printable_ascii_character_can_be_typed() -> None:
    text = "".join(chr(code) for code in range(32, 127))
    chords = chords_of(text)
    assert len(chords) == len(set(chords)) == 95
    assert {chord[0] for chord in chords if len(chord) == 2} == {"shift"}


def test_text_becomes_keys() -> None:
    assert chords_of("Aa1!\n\t") == (
        ("shift", "a"),
        ("a",),
        ("1",),
        ("shift", "1"),
        ("ret",),
        ("tab",),
    )
    assert chords_of("\r\n") == (("ret",),)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-alt-f2", ("ctrl", "alt", "f2")),
        ("Ctrl-Alt-Del", ("ctrl", "alt", "delete")),
        ("enter", ("ret",)),
        ("shift-a", ("shift", "a")),
        ("ctrl--", ("ctrl", "minus")),
        ("-", ("minus",)),
        ("alt-sysrq-b", ("alt", "sysrq", "b")),
        ("space", ("spc",)),
    ],
)
def test_chords(text: str, keys: tuple[str, ...]) -> None:
    assert parse_chord(text) == keys


@pytest.mark.parametrize(
    ("text", "chords", "message"),
    [
        (
            "naïve",
            [],
            "character 'ï' at place 3 is not on a US keyboard; leave it out",
        ),
        ("a\x00", [], "character '\\x00' at place 2 is not on a US keyboard; leave it out"),
        (
            "",
            ["ctrl-alt-f13"],
            (
                "'f13' in 'ctrl-alt-f13' is no key; did you mean 'f3'?; "
                "write keys like ctrl-alt-f2, shift-a or enter"
            ),
        ),
        (
            "",
            ["ctrl-"],
            "'' in 'ctrl-' is no key; write keys like ctrl-alt-f2, shift-a or enter",
        ),
        ("", ["a-a"], "'a-a' is no chord: up to five different keys, like ctrl-alt-f2"),
        ("", [], "there is nothing to type: give a text, or keys like ctrl-alt-f2"),
        (
            "x" * 1001,
            [],
            "the text has 1001 characters, at most 1000 are typed at a time: split it",
        ),
        ("x" * 1000, ["a"], "1001 keys are too many: at most 1000 at a time"),
    ],
)
def test_what_cannot_be_typed(text: str, chords: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        presses(text, chords)
    assert refused.value.message == message
