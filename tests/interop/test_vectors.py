"""The project's verification vectors, given to our program and to two foreign libraries.

Where a library decides otherwise than the vector, the row stands in a table with the reason; a row that changes sides fails the test. The
foreign libraries use the machine's clock, so the times of a vector are moved to now for them.
"""

import base64
import copy
import hashlib
import hmac
import json
import os
import subprocess
import time
from pathlib import Path

import jwt
import pytest
import scitokens
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from support.processes import GRIDKEEP, PATIENCE
from support.vault import at_once

VECTORS = Path(__file__).resolve().parents[2] / "crates" / "token" / "vectors"
TIMES = ("exp", "nbf", "iat")
# A second of life is over before a foreign program has looked.
TOO_CLOSE = {"C15", "C19"}
# The command of Debian 12 ends with a fault of memory when it is given an RSA key.
RSA = {"C48", "C49"}


@pytest.fixture(scope="module")
def keys():
    return {
        "k1": (ec.generate_private_key(ec.SECP256R1()), "ES256", {"use": "sig", "alg": "ES256"}),
        "k2": (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256", {}),
        "k3": (ec.generate_private_key(ec.SECP256R1()), "ES256", {"use": "enc"}),
        "attacker": (ec.generate_private_key(ec.SECP256R1()), "ES256", {}),
    }


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwks(keys) -> str:
    published = []
    for name, (key, algorithm, members) in keys.items():
        if name != "attacker":
            made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
            published.append({**made, "kid": name, **members})
    return json.dumps({"keys": published})


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token_of(row, setting, keys, move: int) -> str:
    """The row's token, its times moved by `move` seconds."""
    claims = copy.deepcopy(setting["baseline"])
    claims.update(row.get("set", {}))
    for claim in row.get("remove", []):
        claims.pop(claim, None)
    for claim in TIMES:
        if isinstance(claims.get(claim), (int, float)):
            claims[claim] += move
    header = {**setting.get("header", {"alg": "ES256", "typ": "JWT", "kid": "k1"}), **row.get("header", {})}
    header = {name: value for name, value in header.items() if value is not None}
    payload = json.dumps(claims, ensure_ascii=False)
    if "append" in row:
        payload = payload[:-1] + row["append"] + "}"
    signed = f"{part(json.dumps(header).encode())}.{part(payload.encode())}"
    key, algorithm, _ = keys[row.get("key", "k1")]
    if row.get("signature") == "hmac with the PEM of k1":
        signature = hmac.new(public_pem(keys["k1"][0]), signed.encode(), hashlib.sha256).digest()
    elif row.get("signature") == "of another payload":
        signature = jwt.get_algorithm_by_name(algorithm).sign(b"x." + signed.encode(), key)
    elif row.get("signature") == "":
        signature = b""
    else:
        signature = jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), key)
    return f"{signed}.{part(signature)}"


def to_now(setting) -> int:
    """By how much the times of a vector are moved to now; asked for each token, as some are about half a minute."""
    return int(time.time()) - setting["now"]


def rows_of(name):
    """The rows that are a token alone, judged under the setting's keys."""
    setting = json.loads((VECTORS / name).read_text())
    rows = []
    for row in setting["rows"]:
        if "form" in row or "keys_age_hours" in row or row.get("wlcg_baseline"):
            continue
        rows.append({**row, "set": {"scope": row["scope"]}} if name == "scopes.json" else row)
    if name == "scopes.json":
        claims = json.loads((VECTORS / "claims.json").read_text())
        setting = {**claims, "rows": rows}
    return setting, rows


def accepted(row) -> bool:
    return row["verdict"] == "accept"


def ours(token, path, setting, *words) -> bool:
    issuers = setting.get("issuers", [setting.get("issuer")])
    trusted = [word for issuer in issuers for word in ("--issuer", issuer)]
    done = subprocess.run(
        [GRIDKEEP, "verify", "-q", "--jwks", path, "--at", "1900000000", *trusted, *words, "-"],
        input=token, text=True, capture_output=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], "HOME": str(path.parent)},
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("name, words", [
    ("claims.json", ["--profile", "wlcg", "--audience", "https://se.example.org", "--audience", "https://se1.example.org"]),
    ("scopes.json", ["--profile", "wlcg", "--audience", "https://se.example.org"]),
    ("scitokens.json", ["--profile", "scitokens", "--audience", "https://se.example.org"]),
])
def test_our_program_decides_as_the_vectors_say(keys, tmp_path, name, words):
    path = tmp_path / "jwks.json"
    path.write_text(jwks(keys))
    setting, rows = rows_of(name)
    assert len(rows) > 10
    verdicts = at_once(len(rows), lambda index: ours(token_of(rows[index], setting, keys, 0), path, setting, *words))
    wrong = [row["id"] for row, verdict in zip(rows, verdicts) if verdict != accepted(row)]
    assert not wrong


# --- Python scitokens: signature, times and audience; it was written for SciTokens and knows nothing of WLCG's own rules.

PYTHON_DIFFERS = {
    **dict.fromkeys("C04 C05 C06 C07 C08 C09 C10 C11 C12 C13".split(), "does not look at the audience when it only deserialises; its Enforcer does"),
    **dict.fromkeys("C17 C23 C26 C27".split(), "asks for no claim but those it is told to"),
    **dict.fromkeys("C18 C29 C30 C31".split(), "does not check the type or the characters of a claim"),
    **dict.fromkeys("C20 C24".split(), "has no leeway for clocks"),
    **dict.fromkeys("C32 C33 C34 C35 C36".split(), "trusts any issuer whose key the caller brought"),
    **dict.fromkeys("C37 C40 C41a C41b C41c C41d C42 C43".split(), "does not know wlcg.ver"),
    **dict.fromkeys("C50 C51 C52".split(), "uses the key the caller brought, whatever kid and use say"),
}


def header_of(token) -> dict:
    text = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def python_accepts(token, keys) -> bool:
    key = keys.get(header_of(token).get("kid"), keys["k1"])[0]
    try:
        scitokens.SciToken.deserialize(token, audience=["https://se.example.org", "https://se1.example.org"], insecure=True, public_key=public_pem(key))
    except Exception:
        return False
    return True


def test_python_scitokens_agrees_but_for_known_rows(keys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    setting, rows = rows_of("claims.json")
    rows = [row for row in rows if row["id"] not in TOO_CLOSE]
    differs = {row["id"] for row in rows if python_accepts(token_of(row, setting, keys, to_now(setting)), keys) != accepted(row)}
    assert differs == set(PYTHON_DIFFERS)


# --- scitokens-cpp of Debian 12 (0.7.3): profile wlcg, no audience, so rows about the audience are left out.

CPP_DIFFERS = {
    **dict.fromkeys("C20 C24".split(), "has no leeway for clocks"),
    **dict.fromkeys("C22".split(), "wants nbf, which WLCG leaves optional"),
    **dict.fromkeys("C26 C27 C29 C30 C31".split(), "does not ask for jti and sub, nor for the characters of sub"),
    **dict.fromkeys("C37 C43".split(), "takes a token without wlcg.ver, or with both versions, for a SciToken"),
    **dict.fromkeys("C38 C39".split(), "refuses every wlcg.ver but 1.0"),
    **dict.fromkeys("C50 C51".split(), "uses the key the caller brought, whatever kid and use say"),
    **dict.fromkeys("C55".split(), "ignores crit"),
}


def test_scitokens_cpp_agrees_but_for_known_rows(keys, tmp_path):
    setting, rows = rows_of("claims.json")
    rows = [row for row in rows if "aud" not in row.get("set", {}) and row["id"] not in TOO_CLOSE | RSA | {"C04"}]
    issuer = setting["baseline"]["iss"]
    for name, (key, _, _) in keys.items():
        (tmp_path / f"{name}.pem").write_bytes(public_pem(key))

    def cpp(index):
        row = rows[index]
        token = token_of(row, setting, keys, to_now(setting))
        kid = {**setting["header"], **row.get("header", {})}.get("kid")
        published = kid if kid in keys else "k1"
        # Its database does not stand two at once.
        cache = tmp_path / f"cache-{index}"
        cache.mkdir()
        done = subprocess.run(
            ["scitokens-verify", "--cred", tmp_path / f"{published}.pem", "--issuer", issuer, "--keyid", published, "--profile", "wlcg", token],
            capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(cache)},
        )
        assert done.returncode in (0, 1), f"{row['id']}: {done.returncode} {done.stdout}{done.stderr}"
        return done.returncode == 0

    verdicts = at_once(len(rows), cpp)
    differs = {row["id"] for row, verdict in zip(rows, verdicts) if verdict != accepted(row)}
    assert differs == set(CPP_DIFFERS)
