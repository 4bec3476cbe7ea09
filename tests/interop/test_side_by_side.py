"""The same words to the original and to ours: output and files compared line by line.

What callers match or read is compared byte for byte; wording that the contract leaves free is not looked at, only where it goes.
"""

import os
import re

import pytest
from support.house import mode
from support.tokens import claims

# Lines that other programs match or filter, as they stand in the default mode.
KEPT = re.compile(r"^(Attempting to get token from|Storing bearer token in|Storing vault token in|Complete the authentication at:|htgettoken: Failure getting token from)")


@pytest.fixture
def pair(house, tmp_path):
    """The original and ours, each with its own user, logged in."""
    return [house.resident(kind, tmp_path / kind) for kind in ("original", "ours")]


def plain(text: str, client) -> str:
    """Without what differs because there are two users with two homes."""
    return text.replace(str(client.home), "HOME").replace(client.user, "USER").replace("\r", "")


def files(client) -> dict:
    """Every file of a home: its mode, and what it is."""
    found = {}
    for path in sorted(client.home.rglob("*")):
        # Ours keeps private notes and locks beside the original's files; nobody else reads them.
        own = "gridkeep" in path.relative_to(client.home).parts or path.name.startswith("lock-")
        if not path.is_file() or own:
            continue
        text = path.read_text()
        kind = "vault token" if text.startswith("hvs.") else "bearer token" if text.startswith("ey") else plain(text, client)
        found[str(path.relative_to(client.home))] = (kind, text.count("\n"), path.is_symlink())
    return found


def kept(text: str) -> list[str]:
    """Lines that match; of a fatal message the part before the reasons, which only ours gives."""
    found = []
    for line in text.splitlines():
        if match := KEPT.match(line):
            found.append(match.group() if line.startswith("htgettoken: ") else line)
    return found


CASES = {
    "plain": (),
    "quiet": ("-q",),
    "verbose": ("-v",),
    "url": ("--showbearerurl",),
    "url, quiet": ("--showbearerurl", "-q"),
    "minsecs": ("--minsecs=100",),
    "minimum of the vault token": ("--vaulttokenminttl=1h",),
    "minimum not reached": ("--vaulttokenminttl=8d", "--vaulttokenttl=9d", "--nooidc"),
    "to standard output": ("-o", "/dev/stdout", "-q"),
    "another role, nobody there": ("-r", "other", "--nooidc"),
    "another issuer, nobody there": ("-i", "noconfirm", "--nooidc"),
    "unknown issuer": ("-i", "nosuch", "--nooidc"),
    "quiet failure": ("-r", "other", "--nooidc", "-q"),
    "no directory": ("-o", "/nonexistent/directory/bt"),
    "long on disk": ("--vaulttokenttl=28d",),
    "minimum above": ("--vaulttokenminttl=7d",),
    "wrong unit": ("--vaulttokenttl=7",),
}


@pytest.mark.parametrize("words", CASES.values(), ids=CASES.keys())
def test_same(pair, words):
    seen = []
    for client in pair:
        outcome = client.run(*words, terminal=False)
        out, err = plain(outcome.out, client), plain(outcome.err, client)
        out = re.sub(r"^ey\S+$", "TOKEN", out, flags=re.MULTILINE)
        quiet, verbose = "-q" in words, "-v" in words
        lines = [[line for line in kept(text) if not verbose or line.startswith("Storing")] for text in (out, err)]
        seen.append({
            "code": outcome.code,
            "kept lines of standard output": lines[0], "kept lines of standard error": lines[1],
            "data": [line for line in out.splitlines() if line.startswith("https://") or line == "TOKEN"],
            "silent": (out == "", err == "") if quiet else None,
            "files": files(client),
        })
    assert seen[0] == seen[1]


def test_same_login(house, tmp_path):
    """A first login: the lines in their order, the address alone on an indented line, the files."""
    seen = []
    for kind in ("original", "ours"):
        client = house.client(kind, tmp_path / kind)
        client.user = f"{kind}-side"
        outcome = client.log_in(house.person(client.user))
        assert outcome.code == 0, outcome
        text = plain(outcome.out, client)
        lines = text.splitlines()
        at = lines.index("Complete the authentication at:")
        assert lines[at - 1] == "" and re.fullmatch(r" +https://\S+", lines[at + 1]), text
        seen.append((kept(text), files(client), mode(client.bearer), mode(client.vault_token), set(claims(client.bearer.read_text()))))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("-h",), ("--nosuch",), ("--vault=x",), ("-a",), ("stray",), ()])
def test_same_usage(pair, words):
    """Exit code and stream; the text is each one's own."""
    seen = []
    for client in pair:
        outcome = client.execute([*client.program, *words], env={"HOME": str(client.home), "PATH": os.environ["PATH"]})
        seen.append((outcome.code, bool(outcome.out), bool(outcome.err)))
    assert seen[0] == seen[1], seen
