"""Keys of a keyboard with the US layout: text and chords as QEMU's key codes (`QKeyCode`). Pure.

Source: QEMU's qapi/ui.json. A chord is a tuple of key codes that are held down together, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from labd.model.errors import InputError
from labd.model.names import nearest

Chord = tuple[str, ...]

MAX_KEYS: Final = 1000  # chords of one request
_PLAIN: Final = {
    **{letter: letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"},
    " ": "spc",
    "\n": "ret",
    "\t": "tab",
    "\b": "backspace",
    "\x1b": "esc",
    "-": "minus",
    "=": "equal",
    "[": "bracket_left",
    "]": "bracket_right",
    "\\": "backslash",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave_accent",
    ",": "comma",
    ".": "dot",
    "/": "slash",
}
_SHIFTED: Final = dict(
    zip('!@#$%^&*()_+{}|:"~<>?', "1234567890-=[]\\;'`,./", strict=True),
    **{letter.upper(): letter for letter in "abcdefghijklmnopqrstuvwxyz"},
)
# What people write in a chord -> the code. Single characters are those of `_PLAIN`.
_CODES: Final = """
    ctrl ctrl_r alt alt_r shift shift_r meta_l meta_r menu caps_lock num_lock scroll_lock esc tab
    ret backspace spc insert delete home end pgup pgdn up down left right print pause sysrq minus
    equal comma dot slash semicolon apostrophe grave_accent backslash bracket_left bracket_right
    kp_enter kp_add kp_subtract kp_multiply kp_divide
"""
_NAMED: Final = {
    **{code: code for code in _CODES.split()},
    **{f"f{number}": f"f{number}" for number in range(1, 13)},
    "control": "ctrl",
    "win": "meta_l",
    "meta": "meta_l",
    "super": "meta_l",
    "altgr": "alt_r",
    "escape": "esc",
    "enter": "ret",
    "return": "ret",
    "space": "spc",
    "del": "delete",
    "ins": "insert",
    "pageup": "pgup",
    "pagedown": "pgdn",
}


def chords_of(text: str) -> tuple[Chord, ...]:
    """Return what a person presses to type `text`.

    Raises:
        InputError: A character is not on a US keyboard, or the text is too long.
    """
    if len(text) > MAX_KEYS:
        raise InputError(
            f"the text has {len(text)} characters, at most {MAX_KEYS} are typed at a time: split it"
        )
    found = []
    for place, character in enumerate(text.replace("\r\n", "\n").replace("\r", "\n"), 1):
        plain = _PLAIN.get(_SHIFTED.get(character, character))
        if plain is None:
            raise InputError(
                f"character {character!r} at place {place} is not on a US keyboard; leave it out"
            )
        found.append(("shift", plain) if character in _SHIFTED else (plain,))
    return tuple(found)


def parse_chord(text: str) -> Chord:
    """Return the keys of a chord such as `ctrl-alt-f2`, `shift-a` or `enter`.

    Raises:
        InputError: It is none.
    """
    words = [word.lower() for word in text.split("-")]
    # A dash is both the separator and a key.
    if text == "-" or text.endswith("--"):
        words = [*words[:-2], "-"]
    codes = []
    for word in words:
        code = _NAMED.get(word) or (_PLAIN.get(word) if word.isprintable() else None)
        if code is None:
            near = nearest(word, _NAMED)
            raise InputError(
                f"{word[:32]!r} in {text[:64]!r} is no key"
                + (f"; did you mean {near!r}?" if near else "")
                + "; write keys like ctrl-alt-f2, shift-a or enter"
            )
        codes.append(code)
    if len(set(codes)) != len(codes) or len(codes) > 5:
        raise InputError(f"{text[:64]!r} is no chord: up to five different keys, like ctrl-alt-f2")
    return tuple(codes)


def presses(text: str, chords: Sequence[str]) -> tuple[Chord, ...]:
    """Return the keys of a request: its text first, then its chords.

    Raises:
        InputError: It is empty, or one of them is wrong.
    """
    found = (*chords_of(text), *(parse_chord(chord) for chord in chords))
    if not found:
        raise InputError("there is nothing to type: give a text, or keys like ctrl-alt-f2")
    if len(found) > MAX_KEYS:
        raise InputError(f"{len(found)} keys are too many: at most {MAX_KEYS} at a time")
    return found
