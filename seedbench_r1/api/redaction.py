"""A secret that others may repeat, taken out of text in every form in which servers and proxies write it."""

from __future__ import annotations

import base64
import re

SHORTEST_SECRET = 8  # characters; shorter keys are placeholders ("none", "EMPTY") and may be ordinary words
REPLACEMENT = "[key]"


def secret_pattern(secret: str) -> re.Pattern[str] | None:
    r"""Finds the secret plain, as JSON (\u0073), in percent (%73, %2573), as HTML (&#115;), in hex and in base64.

    None for a placeholder, which would be replaced inside ordinary words.
    """
    if len(secret) < SHORTEST_SECRET:
        return None
    # Each character in any of the forms, since an encoder leaves most characters as they are.
    spelled = "".join(_any_form(char) for char in secret)
    return re.compile("|".join([spelled, *_in_base64(secret.encode())]), re.IGNORECASE)


def redact(text: str, pattern: re.Pattern[str] | None) -> str:
    """The text with every such place replaced by "[key]"."""
    return text if pattern is None else pattern.sub(REPLACEMENT, text)


def _any_form(char: str) -> str:
    code = ord(char)
    in_hex = f"{code:02x}"
    # Backslashes are counted up to four: JSON inside JSON has three before its u.
    forms = [re.escape(char), rf"\\{{1,4}}(?:u\{{?0*|x){in_hex}\}}?", f"%(?:25)*{in_hex}", in_hex]
    return f"(?:{'|'.join([*forms, f'&#(?:0*{code}|x0*{in_hex});'])})"


def _in_base64(secret: bytes) -> set[str]:
    """Its base64 at each of the three places where it can begin in a longer text, as patterns."""
    found = set()
    for before in range(3):
        # What precedes changes the first characters, what follows the last one.
        text = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")[(0, 2, 3)[before] :]
        known = text if (before + len(secret)) % 3 == 0 else text[:-1]
        for form in (known, known.replace("+", "-").replace("/", "_")):
            found.add(rf"{re.escape(form)}[\w+/-]?={{0,2}}")
    return found
