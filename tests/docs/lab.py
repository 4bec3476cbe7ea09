"""Runs the examples of docs/*.md: an issuer, a server and a user's home below one directory, named as the documents name them.

A block is run when a comment stands before it:

    <!-- tested: NAME -->
    ```console
    $ command
    what it prints
    ```

Lines that begin with `$ ` are a user's commands, with `# ` an operator's; `> ` continues one. A line of output that is only an ellipsis
stands for any number of lines; within a line it stands for any text. So do output lines that would read as a prompt. A function that
a command defines is there in all later blocks, as it is in the reader's shell. A file the reader is to make is

    <!-- file: /etc/gridkeep/config.d/20-site.yaml -->
    ```yaml
    issuers: …
    ```

`python tests/docs/lab.py docs/operate.md` prints the blocks with what the commands print now; with `--write` it puts that into the document.
"""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.issuers import Issuer
from support.people import Person
from support.processes import CACHE, GRIDKEEP, PATIENCE, NotifySocket, Process, hold_port, wait_until

DOCS = Path(__file__).resolve().parents[2] / "docs"
ELLIPSIS = "…"
SERVICE = "gk.example.org"
METRICS = "127.0.0.1:9464"
ISSUERS = {"https://iam.example.org": "iam", "https://login.helix.example": "helix"}
# What the documents call a place, and where it is in the laboratory.
PLACES = [
    "/etc/gridkeep", "/etc/htvault-config", "/etc/default", "/etc/prometheus", "/var/lib/gridkeep", "/var/log/gridkeep", "/var/log/htvault-config", "/run/gridkeep",
    "/run/user/1000", "/home/alice", "/etc/pki", "/backup", "/tmp",
]
# What begins every token that the server gives out.
SECRETS = ["hvs.", "gkh.", "eyJ"]


@dataclass
class Block:
    """One marked block of a document."""

    document: str
    line: int
    kind: str  # tested or file
    name: str
    text: str

    def __str__(self):
        return f"{self.document}:{self.line} ({self.name})"

    def steps(self) -> list[tuple[str, list[str]]]:
        """Commands, each with the lines it is said to print."""
        steps = []
        for line in self.text.splitlines():
            if line.startswith(("$ ", "# ")):
                steps.append((line[2:], []))
            elif line.startswith("> ") and steps and not steps[-1][1]:
                steps[-1] = (steps[-1][0] + "\n" + line[2:], [])
            else:
                assert steps, f"{self}: output before the first command"
                steps[-1][1].append(line)
        return steps


def blocks(path: Path) -> list[Block]:
    """The marked blocks of a document, in order."""
    found = []
    text = path.read_text()
    pattern = re.compile(r"^( *)<!-- (tested|file): (.+?) -->\n *```\w*\n(.*?)^ *```$", re.M | re.S)
    for match in pattern.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(path.name, line, match[2], match[3], textwrap.dedent(match[4])))
    assert len(found) == len(re.findall(r"^ *<!-- (?:tested|file): ", text, re.M)), f"{path.name}: a marker without a block behind it"
    return found


class Lab:
    """The world of the documents."""

    def __init__(self, directory: Path, authority):
        self.root = directory
        self.authority = authority
        self.process = None
        self.functions = []
        # Known before the server listens there, because the address browsers return to holds it; kept while the server does not run.
        self.held = [hold_port()]
        self.port = self.held[0].getsockname()[1]
        for place in PLACES:
            self.place(place).mkdir(parents=True, exist_ok=True)
        self.etc = "/etc/gridkeep"
        self.issuers = {}
        self.etcd = []
        self.etcd_clients = {}
        users = [{"name": "alice", "password": "alice", "claims": {"wlcg.credkey": "alice", "groups": ["operators"]}}]
        try:
            for url, name in ISSUERS.items():
                self.issuers[url] = Issuer(directory, name, config={"users": users}, auto_login="alice")
        except BaseException:
            self.stop()
            raise
        self._make_certificates()
        self._make_programs()

    def place(self, path: str) -> Path:
        return self.root / "at" / path.lstrip("/")

    def _make_certificates(self):
        bundle = self.root / "authorities.pem"
        bundle.write_text("".join(Path(path).read_text() for path in [self.authority.path, *(issuer.ca for issuer in self.issuers.values())]))
        self.bundle = bundle
        (self.place("/etc/pki") / "issuer.pem").write_text(bundle.read_text())
        for etc in ("/etc/gridkeep", "/etc/htvault-config"):
            certificate, key = self.authority.issue(f"host{etc.replace('/', '-')}")
            for source, name in ((certificate, "hostcert.pem"), (key, "hostkey.pem")):
                target = self.place(etc) / name
                target.write_bytes(source.read_bytes())
                target.chmod(0o600 if name == "hostkey.pem" else 0o644)
            (self.place(etc) / "config.d").mkdir(exist_ok=True)

    def _make_programs(self):
        """`gridkeep` with the default path of its configuration here, and the other names."""
        self.bin = self.root / "bin"
        self.bin.mkdir()
        wrapper = self.bin / "gridkeep"
        wrapper.write_text(f"""#!/bin/sh
# Where this laboratory has its files, for the commands that look for them.
default=
case "$*" in *--config*|*--help*) ;; *) default="--config {self.place('/etc/gridkeep/config.d')}" ;; esac
case "$1 $2" in
"config diff"|"config publish"|"audit verify"|cluster*|operator*|status*|doctor*) exec {GRIDKEEP} "$@" $default --config {self.root}/lab.yaml ;;
config*) exec {GRIDKEEP} "$@" $default ;;
server*) exec {GRIDKEEP} "$@" $default --config {self.root}/lab.yaml ;;
esac
exec {GRIDKEEP} "$@"
""")
        wrapper.chmod(0o755)
        journal = self.bin / "journalctl"
        journal.write_text(f"#!/bin/sh\ncat {self.root}/server.log\n")
        journal.chmod(0o755)
        # Arguments can be read by everybody on the host: these refuse to have a secret among them.
        patterns = "|".join(f"*{secret}*" for secret in SECRETS)
        for name in ("curl", "jq"):
            guarded = self.bin / name
            guarded.write_text(f"""#!/bin/sh
case "$*" in {patterns}) echo "a secret is an argument of {name}" >&2; exit 99 ;; esac
exec {shutil.which(name)} "$@"
""")
            guarded.chmod(0o755)
        for name in ("htgettoken", "httokensh", "htdecodetoken", "httokendecode", "htdestroytoken"):
            (self.bin / name).symlink_to(GRIDKEEP)
        original = self.place("/home/alice") / "venv" / "bin"
        original.mkdir(parents=True)
        for name in ("htgettoken", "httokensh", "htdecodetoken", "htdestroytoken"):
            (original / name).write_text(f"#!/bin/sh\nPATH={CACHE}/venv/bin:$PATH exec {CACHE}/venv/bin/{name} \"$@\"\n")
            (original / name).chmod(0o755)
        python = self.bin / "python3"
        python.write_text(f"#!/bin/sh\nexec {CACHE}/venv/bin/python \"$@\"\n")
        python.chmod(0o755)

    # Names in the documents and here.

    def here(self, text: str) -> str:
        """Text of a document, with the names of this laboratory."""
        # In one go: a place of the laboratory may itself lie below one of these.
        places = "|".join(map(re.escape, PLACES))
        text = re.sub(rf"(?<![\w./-])(?:{places})(?![\w.-])", lambda place: str(self.place(place[0])), text)
        for url, issuer in self.issuers.items():
            text = text.replace(url, issuer.url)
        for name, url in self.etcd_clients.items():
            text = text.replace(name, url)
        text = text.replace("_u1000", f"_u{os.getuid()}")
        if METRICS in text:
            log = (self.root / "server.log").read_text()
            text = text.replace(METRICS, re.findall(r"metrics on http://([\d.:]+)/metrics", log)[-1])
        return text.replace(f"{SERVICE}:8200", SERVICE).replace(SERVICE, f"127.0.0.1:{self.port}")

    def there(self, text: str) -> str:
        """What was printed here, with the names of the documents."""
        text = text.replace(f"{self.root}/at/", "/").replace(str(GRIDKEEP), "gridkeep")
        for url, issuer in self.issuers.items():
            text = text.replace(issuer.url, url)
        for name, url in self.etcd_clients.items():
            text = text.replace(url, name)
        text = re.sub(r"http://127\.0\.0\.1:\d+/metrics", f"http://{METRICS}/metrics", text)
        text = re.sub(rf"(serving|, running since \S+,) on 127\.0\.0\.1:{self.port}", r"\1 on [::]:8200", text)
        text = re.sub(rf"127\.0\.0\.1(:|%3A){self.port}", rf"{SERVICE}\g<1>8200", text).replace("`127.0.0.1`", f"`{SERVICE}`")
        text = text.replace("Service name 127.0.0.1", f"Service name {SERVICE}")
        text = re.sub(r"^(.*name): 127\.0\.0\.1\b", rf"\1: {SERVICE}", text, flags=re.M).replace(f"{self.root}/", "/lab/")
        text = text.replace(f"operator-uid-{os.getuid()}", "operator-uid-0").replace(f'",{os.getuid()}]', '",0]')
        return re.sub(rf"(_u|krb5cc_){os.getuid()}\b", r"\g<1>1000", text).replace("\r\n", "\n")

    # Files and the server.

    def make_file(self, block: Block):
        path = Path(self.here(block.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        text = block.text.replace(f"name: {SERVICE}", "name: 127.0.0.1")
        path.write_text(self.here(text))
        path.chmod(0o600)
        self._own_places()

    def start(self, etc: str = "/etc/gridkeep"):
        """Starts the server on what lies in `etc`, with places of this laboratory and the options of the unit's environment file."""
        self.etc = etc
        defaults = self.place("/etc/default") / "gridkeep"
        arguments = re.findall(r"^GRIDKEEP_OPTIONS=(.*)$", defaults.read_text(), re.M)[0].split() if defaults.exists() else []
        self._own_places()
        self.notify = NotifySocket(self.root / "notify.sock")
        self.process = Process(
            [GRIDKEEP, "server", "--config", self.place(etc) / "config.d", "--config", self.root / "lab.yaml", *arguments], self.root / "server.log",
            env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(self.notify.path)},
        )
        self.notify.wait_for("READY=1", self.process)

    def _own_places(self):
        """What the server is told besides the documents' files: where this laboratory is, and whom to trust."""
        own = {
            "listen": [f"127.0.0.1:{self.port}"],
            "data": str(self.place("/var/lib/gridkeep")),
            "run_directory": str(self.place("/run/gridkeep")),
            "telemetry": {"metrics": {"listen": ["127.0.0.1:0"]}},
        }
        lines = "".join(f"  {key}: {value!r}\n".replace("'", '"') for key, value in own.items())
        text = self._site(self.etc)
        named = dict.fromkeys(re.findall(r"^  - name: (\S+)", text.partition("issuers:")[2], re.M))
        authorities = "".join(f"  - {{name: {name}, ca_file: {self.bundle}}}\n" for name in named)
        audit = "" if "auditlog" in text else f"cluster:\n  auditlog: {self.place('/var/log/htvault-config/auditlog')}\n"
        extra = self.root / "lab.yaml"
        extra.write_text(f"gridkeep:\n{lines}  callback_port: {self.port}\n{audit}issuers:\n{authorities}")
        extra.chmod(0o600)

    def _site(self, etc: str) -> str:
        return "".join(path.read_text() for path in sorted((self.place(etc) / "config.d").glob("*.yaml")))

    def stop_server(self):
        if self.process:
            self.process.stop()
            self.notify.close()
            self.process = None

    def systemctl(self, verb: str):
        """What the service manager does with the unit."""
        if verb in ("stop", "restart"):
            self.stop_server()
        if verb in ("start", "restart", "enable"):
            self.start(self.etc)
        if verb == "reload":
            self.process.signal(signal.SIGHUP)
            self.notify.wait_for("READY=1", self.process)

    def start_etcd(self):
        """The three members of docs/cluster.md, with TLS, and the server's certificate for them."""
        certificate, key = self.authority.issue("etcd")
        place = self.place("/etc/gridkeep/etcd")
        place.mkdir()
        for source, name in ((self.authority.path, "ca.pem"), (certificate, "client.pem"), (key, "client.key")):
            (place / name).write_bytes(Path(source).read_bytes())
        sockets = [hold_port() for _ in range(6)]
        self.held += sockets
        urls = [f"https://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        names = ["etcd1", "etcd2", "etcd3"]
        peers = dict(zip(names, urls[3:]))
        self.etcd_clients = {f"https://{name}.example.org:2379": url for name, url in zip(names, urls)}
        for name, client in zip(names, urls):
            # Named as the document names them in /etc/default/etcd.
            settings = {
                "NAME": name, "DATA_DIR": self.root / name, "LISTEN_CLIENT_URLS": client, "ADVERTISE_CLIENT_URLS": client,
                "LISTEN_PEER_URLS": peers[name], "INITIAL_ADVERTISE_PEER_URLS": peers[name],
                "INITIAL_CLUSTER": ",".join(f"{each}={url}" for each, url in peers.items()), "INITIAL_CLUSTER_TOKEN": "gridkeep-1",
                "INITIAL_CLUSTER_STATE": "new", "CLIENT_CERT_AUTH": "true", "TRUSTED_CA_FILE": self.authority.path, "CERT_FILE": certificate,
                "KEY_FILE": key, "PEER_CLIENT_CERT_AUTH": "true", "PEER_TRUSTED_CA_FILE": self.authority.path, "PEER_CERT_FILE": certificate,
                "PEER_KEY_FILE": key, "LOG_LEVEL": "error",
            }
            env = {"PATH": os.environ["PATH"], **{f"ETCD_{key}": str(value) for key, value in settings.items()}}
            self.etcd.append(Process(["etcd"], self.root / f"{name}.log", env=env))
        ask = ["etcdctl", "--endpoints", ",".join(urls[:3]), "endpoint", "health"]
        wait_until(
            lambda: subprocess.run(ask, env=self.environment(), capture_output=True, timeout=PATIENCE).returncode == 0, "etcd is healthy", self.etcd[0]
        )
        # Which node this is, and where its data is: `gridkeep store copy` is told one file or directory.
        (self.place("/etc/gridkeep/config.d") / "00-lab.yaml").write_text(
            f"cluster: {{myname: gk1.example.org}}\ngridkeep: {{advertise: 'gk1.example.org:8200', data: {self.place('/var/lib/gridkeep')}}}\n"
        )

    def stop(self):
        trouble = []
        for end in (
            self.stop_server, *(member.kill for member in self.etcd), *(issuer.stop for issuer in self.issuers.values()), *(held.close for held in self.held)
        ):
            try:
                end()
            except Exception as error:  # the next must be ended too
                trouble.append(error)
        if trouble:
            raise trouble[0]

    # Commands.

    def environment(self) -> dict:
        home = self.place("/home/alice")
        return {
            "HOME": str(home), "PATH": f"{self.bin}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(self.place("/run/user/1000")),
            "HTGETTOKENOPTS": f"--cafile={self.bundle} --vaulttokenfile={self.place('/tmp')}/vt_u{os.getuid()} --web-open-command=",
            # No ticket, whoever runs this.
            "KRB5CCNAME": f"FILE:{self.place('/tmp')}/krb5cc_{os.getuid()}",
            "CURL_CA_BUNDLE": str(self.bundle), "REQUESTS_CA_BUNDLE": str(self.bundle), "VAULT_TOKEN_FILE": f"{self.place('/tmp')}/vt_u{os.getuid()}",
            "ETCDCTL_API": "3", "ETCDCTL_CACERT": f"{self.place('/etc/gridkeep/etcd')}/ca.pem",
            "ETCDCTL_CERT": f"{self.place('/etc/gridkeep/etcd')}/client.pem", "ETCDCTL_KEY": f"{self.place('/etc/gridkeep/etcd')}/client.key",
            "LC_ALL": "C.UTF-8", "X509_CERT_DIR": "/nonexistent", "SSL_CERT_FILE": str(self.bundle), "PYTHONWARNINGS": "ignore",
        }

    def run(self, block: Block) -> list[list[str]]:
        """The lines that each command of a block prints, standard output and error together."""
        mark = "--lab-mark--"
        # Here all is done by one user: `runuser -u gridkeep -- command` is the command.
        script = ["set +e; umask 022", f"systemctl() {{ echo {mark}ask $1; read -r; }}", 'runuser() { shift 3; "$@"; }', *self.functions]
        self.functions += [command for command, _ in block.steps() if re.match(r"\w+\(\) \{", command)]
        for command, _ in block.steps():
            script += [f"(exit ${{__code:-0}})\n{self.here(command)}\n__code=$?; echo; echo {mark}"]
        printed, steps, current = [], len(block.steps()), ""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", "\n".join(script)], stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=self.place("/home/alice"), env=self.environment(), start_new_session=True,
        )
        os.close(slave)
        guard = threading.Timer(PATIENCE * 2, process.kill)
        guard.start()
        try:
            for line in process.stdout:
                if line.startswith(f"{mark}ask "):
                    self.systemctl(line.split()[1])
                    os.write(master, b"\n")
                elif line.strip() == mark:
                    printed.append(self.there(current).rstrip("\n").splitlines())
                    current = ""
                else:
                    current += line
                    address = line.strip()
                    if line.startswith(" ") and "/authorize?" in address:
                        threading.Thread(target=self._visit, args=(address,), daemon=True).start()
            process.wait(PATIENCE)
        finally:
            guard.cancel()
            os.close(master)
            process.stdout.close()
            if process.poll() is None:
                process.kill()
            process.wait()
        assert len(printed) == steps, f"{block}: ended early:\n{current}"
        return printed

    def _visit(self, address: str):
        Person("alice", self.bundle).follow(address)


def fits(expected: list[str], printed: list[str]) -> bool:
    """Does what was printed have the form that a document shows?"""
    pattern = ""
    for line in expected:
        if line.strip() == ELLIPSIS:
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.rstrip().split(ELLIPSIS)) + r"\s*\n"
    return re.fullmatch(pattern, "".join(line.rstrip() + "\n" for line in printed)) is not None


def play(lab: Lab, path: Path):
    """Does everything a document says, in order; yields each block that was run and what it printed."""
    for block in blocks(path):
        if block.kind == "file":
            lab.make_file(block)
            continue
        yield block, lab.run(block)


# What differs from run to run, for --write.
PASSING = [
    (r"\bhvs\.[\w-]+", f"hvs.{ELLIPSIS}"), (r"\d{4}-\d\d-\d\d(T[\d:.]+Z)?", ELLIPSIS), (r"user_code=[\w-]+", f"user_code={ELLIPSIS}"),
    (r"/authorize\?.*", f"/authorize?response_type=code&{ELLIPSIS}"), (r'"accessor":"\w+"', f'"accessor":"{ELLIPSIS}"'),
    (r"\b[0-9a-f]{64}\b", ELLIPSIS), (r"\b[0-9a-f]{16}\b", ELLIPSIS), (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", ELLIPSIS),
    (r"vault-cluster-[0-9a-f]{4}", f"vault-cluster-{ELLIPSIS}"), (r'"server_time_utc":\d+', f'"server_time_utc":{ELLIPSIS}'),
    (r"\b[A-Z][a-z]{2} [ \d]\d \d\d:\d\d\b", ELLIPSIS), (r"\b1[78]\d{8}\b", ELLIPSIS), (r'"jti": "[\w-]+"', f'"jti": "{ELLIPSIS}"'),
    (r"credkey-[0-9a-f]{32}", f"credkey-{ELLIPSIS}"), (r"\(in \d[\w ]*\)", f"(in {ELLIPSIS})"), (r"lets it live for [\w ]+", f"lets it live for {ELLIPSIS}"), (r"/lab/[\w.]+:\d+", ELLIPSIS),
    (r'(version"?[=:])"\d[\w.-]*"', rf'\1"{ELLIPSIS}"'), (r"\b\d{3} bytes", f"{ELLIPSIS} bytes"),
]


def _write(path: Path, results):
    """Puts what was printed into the document where it differs."""
    text = path.read_text()
    for block, printed in results:
        marker = f"<!-- tested: {block.name} -->\n"
        start = text.index("```console\n", text.index(marker)) + len("```console\n")
        end = text.index("```", start)
        margin = re.match(r" *", text[start:])[0]
        lines = []
        for (command, expected), shown in zip(block.steps(), printed):
            prompt = next(line[:2] for line in block.text.splitlines() if line[2:] == command.split("\n")[0])
            lines += [prompt + command.replace("\n", "\n> ")]
            if not fits(expected, shown):
                for pattern, short in PASSING:
                    shown = [re.sub(pattern, short, line) for line in shown]
                # Such a line would read as a prompt.
                expected = [ELLIPSIS if line.startswith(("# ", "$ ")) else line for line in shown]
            lines += expected
        body = textwrap.indent("\n".join(lines) + "\n", margin)
        text = text[:start] + body + margin + text[end:]
    path.write_text(text)


def _print(names):
    import tempfile

    from support.certificates import Authority

    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory)
            (base / "authority").mkdir()
            lab = Lab(base, Authority(base / "authority"))
            try:
                prepare(lab, Path(name))
                results = []
                for block, printed in play(lab, Path(name)):
                    results.append((block, printed))
                    print(f"\n=== {block}")
                    for (command, expected), lines in zip(block.steps(), printed):
                        print("$ " + command.replace("\n", "\n> "))
                        print("\n".join(lines))
                        if not fits(expected, lines):
                            print("    !!! differs from the document")
                if "--write" in sys.argv:
                    _write(Path(name), results)
            finally:
                if "--log" in sys.argv:
                    print(lab.there((base / "server.log").read_text()))
                lab.stop()


def prepare(lab: Lab, path: Path):
    """A document that does not start the server itself goes on where operate.md has made its files."""
    if path.name != "operate.md":
        for block in blocks(DOCS / "operate.md"):
            if block.kind == "file":
                lab.make_file(block)
        if path.name == "cluster.md":
            lab.start_etcd()
        lab.start()


if __name__ == "__main__":
    _print([word for word in sys.argv[1:] if not word.startswith("--")])
