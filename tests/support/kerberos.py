"""Kerberos realms of their own: one krb5kdc on loopback for all of them, with their databases in a directory of the test."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from .processes import PATIENCE, Process, wait_until
from .servers import past_later

KDC, KADMIN, KDB_UTIL = "/usr/sbin/krb5kdc", "/usr/sbin/kadmin.local", "/usr/sbin/kdb5_util"
KRB5, SPNEGO = "1.2.840.113554.1.2.2", "1.3.6.1.5.5.2"

PROOF = """
import base64, sys, gssapi
name = gssapi.Name(sys.argv[1], gssapi.NameType.hostbased_service)
context = gssapi.SecurityContext(name=name, mech=gssapi.OID.from_int_seq(sys.argv[2]), usage="initiate")
print(base64.b64encode(context.step()).decode())
"""


class Realms:
    """`names` are realms; the hosts of `hosts` belong to the first. `environment` is what every Kerberos program needs to know."""

    def __init__(self, directory: Path, names=("LAB.EXAMPLE", "PARTNER.EXAMPLE"), hosts=("localhost",)):
        self.directory = directory
        self.names = names
        self.hosts = hosts
        directory.mkdir(parents=True, exist_ok=True)
        # Another program may take the port before the KDC does: then the next is tried.
        for attempt in range(5):
            self.port = _free_port()
            self.config = self.write_config("krb5.conf")
            self._write_kdc_config()
            if attempt == 0:
                for realm in names:
                    self._run([KDB_UTIL, "-r", realm, "create", "-s", "-P", "master"])
            self.process = Process([KDC, "-n", *[word for name in names for word in ("-r", name)]], directory / f"kdc-{attempt}.log", env=self.environment)
            if wait_until(self._settled, "the KDC listens or ends") == "listening":
                return
        raise AssertionError(self.process.output())

    @property
    def environment(self) -> dict:
        return {"PATH": os.environ["PATH"], "KRB5_CONFIG": str(self.config), "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf")}

    def _settled(self):
        if self.process.popen.poll() is not None:
            return "ended"
        with socket.socket() as probe:
            return "listening" if probe.connect_ex(("127.0.0.1", self.port)) == 0 else None

    def write_config(self, name: str, **libdefaults) -> Path:
        """A krb5.conf for these realms, with more settings of `libdefaults`."""
        defaults = {
            "default_realm": self.names[0], "dns_lookup_kdc": "false", "dns_lookup_realm": "false",
            # TCP only: a lost datagram would cost a second.
            "udp_preference_limit": "1", **libdefaults,
        }
        lines = ["[libdefaults]", *[f"  {key} = {value}" for key, value in defaults.items()], "[realms]"]
        for realm in self.names:
            lines.append(f"  {realm} = {{\n    kdc = 127.0.0.1:{self.port}\n  }}")
        lines += ["[domain_realm]", *[f"  {host} = {self.names[0]}" for host in self.hosts]]
        path = self.directory / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def _write_kdc_config(self) -> None:
        lines = ["[kdcdefaults]", f"  kdc_listen = 127.0.0.1:{self.port}", f"  kdc_tcp_listen = 127.0.0.1:{self.port}", "[realms]"]
        for realm in self.names:
            place = self.directory / realm
            place.mkdir(exist_ok=True)
            (place / "acl").touch()
            lines += [
                f"  {realm} = {{", f"    database_name = {place}/principal", f"    key_stash_file = {place}/stash", f"    acl_file = {place}/acl",
                # One format of keys keeps the making of principals quick.
                "    supported_enctypes = aes256-cts-hmac-sha1-96:normal", "    max_renewable_life = 7d", "  }",
            ]
        lines += ["[logging]", f"  kdc = FILE:{self.directory}/kdc.log"]
        (self.directory / "kdc.conf").write_text("\n".join(lines) + "\n")

    def _run(self, words, **options) -> str:
        done = subprocess.run([str(word) for word in words], env=self.environment, capture_output=True, text=True, timeout=PATIENCE, **options)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def admin(self, *commands: str, realm: str | None = None) -> str:
        """Lines for kadmin."""
        out = self._run([KADMIN, "-r", realm or self.names[0]], input="\n".join(commands) + "\n")
        assert "while " not in out, out
        return out

    def trust(self, client_realm: str, service_realm: str) -> None:
        """Lets people of one realm get tickets for services of another."""
        for realm in (client_realm, service_realm):
            self.admin(f"addprinc -pw trust krbtgt/{service_realm}@{client_realm}", realm=realm)

    def person(self, name: str, realm: str | None = None) -> str:
        """Makes a principal whose password is its name."""
        realm = realm or self.names[0]
        self.admin(f"addprinc -pw {name} {name}@{realm}", realm=realm)
        return f"{name}@{realm}"

    def keytab(self, path: Path, *principals: str, realm: str | None = None, new: bool = True) -> Path:
        """Writes new keys of principals, made when needed, into a keytab."""
        realm = realm or self.names[0]
        if new:
            self.admin(*[f"addprinc -randkey {name}@{realm}" for name in principals], realm=realm)
        self.admin(*[f"ktadd -k {path} {name}@{realm}" for name in principals], realm=realm)
        return path

    def tickets(self, cache: Path, principal: str, keytab: Path | None = None, *words: str) -> dict:
        """kinit into a cache; returns the environment of programs that shall use it."""
        environment = {"KRB5_CONFIG": str(self.config), "KRB5CCNAME": f"FILE:{cache}"}
        given = ["-k", "-t", str(keytab)] if keytab else []
        done = subprocess.run(
            ["kinit", "-c", f"FILE:{cache}", *words, *given, principal], input=None if keytab else principal.split("@")[0] + "\n",
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return environment

    def stop(self) -> None:
        self.process.stop()


def proof(environment, service="host@localhost", mechanism=KRB5) -> str:
    """What a client sends after `Negotiate`."""
    done = subprocess.run(
        [sys.executable, "-c", PROOF, service, mechanism], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def negotiate(server, proof, mount="kerberos-dune_default", method="POST"):
    headers = {"Authorization": f"Negotiate {proof}"}
    return past_later(server, method, f"auth/{mount}/login", body=b"" if method == "POST" else None, headers=headers)


def refused(answer) -> str:
    """Why a login was declined. A status other than 200 would end an old client."""
    status, body = answer
    assert status == 200 and body["auth"] is None, body
    assert "permission denied" not in str(body).lower()
    return body["warnings"][0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
