"""What the value of a label may be, whether a command, a header or a token gives it. Knows no label
by its name.
"""

import unicodedata
from typing import Final, Literal

MAX_LABEL_CHARS: Final = 200
Fault = Literal["", "blank", "long", "unseen"]

# Letters and symbols that print as nothing although Unicode does not count them as blanks.
_LOOKS_BLANK: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_INVISIBLE: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def composed(value: str) -> str:
    """The value as it is stored: composed, and without blanks around it."""
    return value.strip() if value.isascii() else unicodedata.normalize("NFC", value).strip()


def fault(text: str) -> Fault:
    """What keeps a composed text from being a label's value; empty where it is fine."""
    if text.isascii() and text.isprintable():
        return "blank" if not text else "long" if len(text) > MAX_LABEL_CHARS else ""
    if not any(unicodedata.category(c)[0] in "LNPS" and c not in _LOOKS_BLANK for c in text):
        return "blank"
    if len(text) > MAX_LABEL_CHARS:
        return "long"
    unseen = any(c in _LOOKS_BLANK or unicodedata.category(c) in _INVISIBLE for c in text)
    return "unseen" if unseen else ""


def usable(value: str | bytes) -> str:
    """The value as a label of a call; empty where it cannot be one."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")  # what is no UTF-8 cannot be seen either
    if len(value) > 4 * MAX_LABEL_CHARS:  # composing makes no text so much shorter
        return ""
    text = composed(value)
    return "" if fault(text) else text
