"""Logins with Kerberos tickets, and what each step of one costs: wrk sends proofs that were made before, each of them once."""

import base64
import json
import subprocess
import sys
from pathlib import Path

from reads import processor_seconds
from support.kerberos import Realms
from support.servers import Server

CONNECTIONS = 64
ISSUER = {
    "name": "bench", "clientid": "gridkeep", "secret": "gridkeep-secret", "url": "https://localhost:1/", "callbackmode": "device",
    "credclaim": "sub", "roles": [{"name": "default", "scopes": ["profile", "offline_access", "wlcg"]}],
}
HOME, ABROAD = "BENCH.EXAMPLE", "ABROAD.EXAMPLE"

PROOFS = """
import base64, sys, gssapi
name = gssapi.Name("host@localhost", gssapi.NameType.hostbased_service)
for _ in range(int(sys.argv[1])):
    print(base64.b64encode(gssapi.SecurityContext(name=name, usage="initiate").step()).decode())
"""


def run(directory: Path, authority, logins: int, seconds: int, started: list) -> list[tuple[str, dict]]:
    """What a login takes, and the same without its last steps. `logins` proofs have to suffice for the seconds of the first measurement."""
    realms = Realms(directory / "realms", (HOME, ABROAD))
    started.append(realms)
    realms.trust(ABROAD, HOME)
    realms.keytab(directory / "keytab", "host/localhost")
    (directory / "server").mkdir()
    server = Server(directory / "server", authority, [ISSUER], extra={"kerberos": [{"name": "bench", "keytab": str(directory / "keytab")}]})
    started.append(server)
    server.start(env={"KRB5_CONFIG": str(realms.config)})

    def proofs(realm: str) -> Path:
        principal = realms.person("alice", realm)
        environment = {**realms.environment, **realms.tickets(directory / f"cc-{realm}", principal)}
        made = subprocess.run([sys.executable, "-c", PROOFS, str(logins)], env=environment, capture_output=True, text=True, check=True)
        path = directory / f"proofs-{realm}"
        path.write_text(made.stdout)
        assert len(base64.b64decode(made.stdout.splitlines()[-1])) > 300
        return path

    own = proofs(HOME)
    first = send(server, seconds, own)
    assert first["declined"] == 0, f"{logins} proofs were not enough for {seconds} s, take more (--logins): {first}"
    # Those that were not sent yet would be logins.
    spent = own.read_text().splitlines()[: first["requests"]]
    own.write_text("\n".join(spent) + "\n")
    found = [
        ("login: ticket judged, token and proof made durable", first),
        ("the same proofs again: judged, found in the store, declined", send(server, seconds, own)),
        ("tickets of a realm that is not let in: judged, declined", send(server, seconds, proofs(ABROAD))),
        ("no ticket: request and audit lines only", send(server, seconds, None)),
    ]
    # Each connection had one under way when the time was over, which may not have been judged.
    assert all(one["accepted"] <= CONNECTIONS for _, one in found[1:]), found
    return found


def send(server, seconds: int, proofs: Path | None) -> dict:
    """Rate, delays and the server's processor time while proofs, or requests without one, are sent."""
    pid = server.process.pid
    before = processor_seconds(pid)
    done = subprocess.run(
        [
            "wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s", "--latency", "--timeout", "10s",
            "--script", str(Path(__file__).with_name("kerberos.lua")), server.url, "--", *([str(proofs)] if proofs else []),
        ],
        capture_output=True, text=True, timeout=seconds + 120,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert done.returncode == 0 and line, done.stdout + done.stderr
    found = json.loads(line.removeprefix("FOUND "))
    assert found["broken"] == 0, found
    found["rate"] = found["requests"] / found["seconds"]
    found["server_cpu_us"] = (processor_seconds(pid) - before) / found["requests"] * 1e6
    return found
