"""What lies in the memory of a running server, and which keys of its store to look for there."""

import base64
import re
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def memory(pid: int):
    """All readable memory of a process, as pairs of where and what."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *rest = line.split(maxsplit=5)
            if "r" not in rights or (len(rest) == 4 and rest[3] in ("[vvar]", "[vvar_vclock]", "[vsyscall]")):
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            try:
                file.seek(start)
                yield line, file.read(end - start)
            except OSError:
                continue


def found_in_memory(pid: int, secrets: dict[str, bytes]) -> dict[str, set[str]]:
    """Which of these lie there, in which mappings."""
    found = {}
    for place, content in memory(pid):
        for what, secret in secrets.items():
            if secret in content:
                found.setdefault(what, set()).add(place)
    return found


def root_key(text: str) -> bytes:
    """The bytes of a key file."""
    encoded = text.strip().rpartition(":")[2]
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def keys_of_store(root: bytes, data: bytes) -> dict[str, bytes]:
    """The keys below a root key, from the bytes of the store's file: the keyring is found by its seal."""
    wrapping = HKDF(SHA256(), 32, b"gridkeep root", b"gridkeep keyring wrapping").derive(root)
    keys = {"root key": root, "what the keyring is sealed under": wrapping}
    label, form = b"gridkeep keyring", b"\x01"
    aead = AESGCMSIV(wrapping)
    for store in {match[1] for match in re.finditer(rb'"store":"([0-9a-f]{32})"', data)}:
        associated = b"".join(len(part).to_bytes(4, "big") + part for part in (label, store)) + form
        for start in (match.start() for match in re.finditer(form, data)):
            nonce = data[start + 1:start + 13]
            if nonce.count(0) > 6:
                continue
            for generations in (1, 2):
                sealed = data[start + 13:start + 13 + 1 + 32 + 4 + 36 * generations + 16]
                try:
                    plain = aead.decrypt(nonce, sealed, associated)
                except InvalidTag:
                    continue
                keys["the store's own secret"] = plain[1:33]
                for number in range(generations):
                    at = 37 + 36 * number
                    keys[f"data key {int.from_bytes(plain[at:at + 4], 'big')}"] = plain[at + 4:at + 36]
    return keys
