"""Looking for secrets where nobody may find them."""

import base64
import re
from pathlib import Path

JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")


def everything(server):
    """All bytes that a run leaves where others could look: files below its directory but the configuration and keys, and /proc."""
    spared = {server.etc / "config.d" / "10-test.yaml", server.etc / "root.key"}
    for path in server.directory.rglob("*"):
        if path.is_file() and path not in spared:
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # renamed in the place of an older one by now, or removed
                continue
            yield str(path), content
    proc = Path(f"/proc/{server.process.pid}")
    for name in ("cmdline", "environ"):
        yield str(proc / name), (proc / name).read_bytes()


def forms(secret: str | bytes) -> set[bytes]:
    """As it is, in both kinds of base64 and in hexadecimal digits."""
    raw = secret.encode() if isinstance(secret, str) else secret
    return {raw, *[code(raw).rstrip(b"=") for code in (base64.b64encode, base64.urlsafe_b64encode)], raw.hex().encode(), raw.hex().upper().encode()}


def assert_hidden(secrets: dict[str, str | bytes], places) -> None:
    """None of the secrets, no JWT and no handle lies in any of `places`, pairs of a name and bytes."""
    assert all(len(secret) > 7 for secret in secrets.values()), "what is short lies everywhere"
    for place, content in places:
        for what, secret in secrets.items():
            assert not any(form in content for form in forms(secret)), f"{what} lies in {place}"
        assert not JWT.search(content), f"a token lies in {place}"
        assert b"gkh." not in content, f"a handle lies in {place}"
