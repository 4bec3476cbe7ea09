"""Looking into tokens without judging them."""

import base64
import json


def claims(token: str) -> dict:
    """The payload of a JWT."""
    return _part(token, 1)


def header(token: str) -> dict:
    """The JOSE header of a JWT."""
    return _part(token, 0)


def _part(token: str, number: int) -> dict:
    text = token.strip().split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
