"""The documents say what the program does: examples are run, names are compared in both directions."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from lab import DOCS, ELLIPSIS, Lab, blocks, fits, play, prepare
from support.processes import GRIDKEEP, PATIENCE

PAGES = [DOCS / name for name in ("operate.md", "cluster.md", "clients.md", "configuration.md")]
ROOT = DOCS.parent
SOURCES = ROOT / "crates"
OWN = [
    ("server",), ("config", "check"), ("config", "show"), ("config", "diff"), ("config", "publish"), ("cluster", "status"), ("audit", "verify"), ("status",),
    ("doctor",), ("operator", "token"), ("operator", "confirm-clock"), ("operator", "credentials"), ("operator", "tokens"), ("operator", "show"),
    ("operator", "revoke"), ("operator", "seal"), ("operator", "unseal"), ("operator", "rotate-keyring"), ("operator", "rotate-root-key"),
    ("operator", "expect-root-key"), ("store", "copy"),
]
CLIENT = ["get", "sh", "decode", "destroy", "explain", "verify", "mine", "ssh-keys"]
ALIASES = {"htgettoken": "get", "httokensh": "sh", "htdecodetoken": "decode", "httokendecode": "decode", "htdestroytoken": "destroy"}


@pytest.fixture
def lab(tmp_path, authority, ending):
    made = Lab(tmp_path, authority)
    ending(made)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples(lab, page):
    for program in ("jq", "curl"):
        assert shutil.which(program), f"{program} is missing; scripts/prepare test installs it"
    prepare(lab, page)
    wrong = []
    for block, printed in play(lab, page):
        for (command, expected), lines in zip(block.steps(), printed):
            if not fits(expected, lines):
                wrong.append(f"{block}: $ {command}\n--- the document says\n" + "\n".join(expected) + "\n--- printed\n" + "\n".join(lines))
    assert not wrong, "\n\n".join(wrong)
    open_to_others = [path for path in (lab.root / "at").rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o077]
    assert not [path for path in open_to_others if re.search(rb"\b(?:hvs|gkh)\.\w", path.read_bytes())], "others may read a token that an example has written"


def test_files_of_the_original_start_a_server(lab):
    for block in blocks(DOCS / "operate.md"):
        if block.kind == "file" and block.name.startswith("/etc/htvault-config"):
            lab.etc = "/etc/htvault-config"
            lab.make_file(block)
    lab.start("/etc/htvault-config")
    assert (lab.place("/etc/gridkeep") / "gridkeep-root.key").exists()
    assert (lab.place("/var/log/htvault-config") / "auditlog").exists()


def run(*words) -> subprocess.CompletedProcess:
    return subprocess.run([GRIDKEEP, *words], capture_output=True, text=True, timeout=PATIENCE)


def options(text: str) -> set[str]:
    """The long options that a text names."""
    return {option for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}


@pytest.fixture(scope="module")
def known() -> dict:
    """The options of each command, by its --help. Those of htgettoken are taken by all of its companions."""
    helps = {" ".join(words): options(run(*words, "--help").stdout) for words in OWN}
    for word in CLIENT:
        done = run(word, "--help")
        helps[word] = options(done.stdout + done.stderr)
    for word in ("sh", "explain", "destroy", "mine", "ssh-keys"):
        helps[word] |= helps["get"]
    return helps


def said() -> list[tuple[str, str]]:
    """Every command line in the documents: where, and its words."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line.strip()[2:] for fence in re.findall(r"```console\n(.*?)```", text, re.S) for line in fence.splitlines() if line.strip()[:2] in ("$ ", "# ", "> ")]
        lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        lines = [line.replace("runuser -u gridkeep -- ", "") for line in lines]
        for line in lines:
            for part in re.split(r"[|;&(]+", line):
                match = re.search(r"(?:^|[\s/])(gridkeep|ht\w+token\w*|httokensh|httokendecode)\s+(.+)", " " + part)
                if match:
                    found.append((page.name, f"{match[1]} {match[2]}"))
    return found


def test_no_secret_is_an_argument():
    """Everybody on the host can read arguments. What a block prints is watched when it is run; this looks at what no test runs, too."""
    for page in [*PAGES, *ROOT.glob("*.md"), *(ROOT / "dist").rglob("*.*")]:
        text = page.read_text()
        for header in re.findall(r"""(?:-H|--header)[ =]["']?([^\n]*)""", text):
            assert not re.match(r"(?i)[^@]*(token|authorization)", header), f"{page.name}: {header}"
        for line in text.splitlines():
            assert not re.search(r"(?:-d|--data\S*|-F|-u|--user|--arg)[ =].*(_secret|_token|password)[\"':=]", line), f"{page.name}: {line}"


def test_files_named_in_the_documents_are_there():
    named = {name for page in [*PAGES, ROOT / "README.md"] for name in re.findall(r"\b(?:dist|scripts)/[\w./-]*\w", page.read_text())}
    assert "dist/systemd/gridkeep.service" in named
    for name in named:
        assert (ROOT / name).exists(), name


def command_of(line: str):
    words = line.split()
    if words[0] in ALIASES:
        return ALIASES[words[0]]
    if words[0] != "gridkeep" or len(words) < 2:
        return None
    if words[1] in ("audit", "config", "operator", "store"):
        return " ".join(words[1:3])
    return words[1]


def test_commands_and_options_exist(known):
    checked = 0
    for page, line in said():
        command = command_of(line)
        if command is None or not re.fullmatch(r"[a-z -]+", command) or line.split()[0] == "gridkeep" and command.startswith("-"):
            continue
        if line.split()[0] == "gridkeep" and command in ("audit", "cluster", "config", "operator", "store"):
            continue
        if line.split()[0] == "gridkeep" and not (command in known):
            # Words such as "gridkeep config and" in prose are not in code spans; here a command is meant.
            pytest.fail(f"{page}: {line}: there is no such command")
        before = line.split(" -- ")[0] if command == "sh" else line
        unknown = options(before) - known[command] - {"--help"}
        assert not unknown, f"{page}: {line}: {command} has no {unknown}"
        checked += 1
    assert checked > 40


def test_every_own_command_and_option_is_described(known):
    text = "\n".join(page.read_text() for page in PAGES)
    for words in OWN:
        name = " ".join(words)
        assert f"gridkeep {name}" in text, f"gridkeep {name} is not described"
        for option in known[name] - {"--help"}:
            assert option in text, f"{option} of gridkeep {name} is not described"
    for word in CLIENT:
        assert re.search(rf"gridkeep (?:`, `)?{word}\b|`{word}`", text), f"gridkeep {word} is not described"


# Where each table of configuration.md stands in a configuration: a key nobody knows there makes the program list those it knows.
PLACES = {
    "": "{nobody-knows: 1}",
    "issuers": "{issuers: [{name: x, nobody-knows: 1}]}",
    "issuers[].roles": "{issuers: [{name: x, roles: [{name: x, nobody-knows: 1}]}]}",
    "cluster": "{cluster: {nobody-knows: 1}}",
    "gridkeep": "{gridkeep: {nobody-knows: 1}}",
    "gridkeep.tls": "{gridkeep: {tls: {nobody-knows: 1}}}",
    "gridkeep.seal": "{gridkeep: {seal: {nobody-knows: 1}}}",
    "gridkeep.audit": "{gridkeep: {audit: {nobody-knows: 1}}}",
    "gridkeep.store": "{gridkeep: {store: {nobody-knows: 1}}}",
    "gridkeep.store.etcd": "{gridkeep: {store: {etcd: {nobody-knows: 1}}}}",
    "gridkeep.store.etcd.tls": "{gridkeep: {store: {etcd: {tls: {nobody-knows: 1}}}}}",
    "gridkeep.telemetry": "{gridkeep: {telemetry: {nobody-knows: 1}}}",
    "gridkeep.telemetry.metrics": "{gridkeep: {telemetry: {metrics: {nobody-knows: 1}}}}",
    "gridkeep.telemetry.traces": "{gridkeep: {telemetry: {traces: {nobody-knows: 1}}}}",
    "gridkeep.telemetry.loki": "{gridkeep: {telemetry: {loki: {nobody-knows: 1}}}}",
    "gridkeep.ssh": "{gridkeep: {ssh: {nobody-knows: 1}}}",
    "gridkeep.compat": "{gridkeep: {compat: {nobody-knows: 1}}}",
    "gridkeep.tokens": "{gridkeep: {tokens: {nobody-knows: 1}}}",
    "gridkeep.keep_alive": "{gridkeep: {keep_alive: {nobody-knows: 1}}}",
    "gridkeep.robots": "{gridkeep: {robots: [{nobody-knows: 1}]}}",
    "gridkeep.operators": "{gridkeep: {operators: [{nobody-knows: 1}]}}",
    "kerberos": "{kerberos: [{name: x, nobody-knows: 1}]}",
    "ssh": "{ssh: {nobody-knows: 1}}",
    "ratelimits": "{ratelimits: [{name: x, nobody-knows: 1}]}",
}


def keys_of_the_program(tmp_path) -> dict:
    found = {}
    for place, text in PLACES.items():
        path = tmp_path / "probe.yaml"
        path.write_text(text)
        line = next(line for line in run("config", "check", "--config", path).stdout.splitlines() if "nobody-knows" in line)
        found[place] = set(re.search(r"Allowed: (.*)\.$", line)[1].split(", "))
    return found


def keys_of_the_document() -> dict:
    text = (DOCS / "configuration.md").read_text()
    found = {place: set() for place in PLACES}
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        heading = re.match(r"`(\w+)`", section)
        if not heading:
            continue
        found[""].add(heading[1])
        places = [heading[1]]
        for line in section.splitlines():
            inner = re.match(r"Keys of (?:an item in )?`([\w.\[\]]+)`(?: and `([\w.]+)`)?", line)
            if inner:
                places = [name for name in inner.groups() if name]
            if line.startswith("| `"):
                for key in re.findall(r"`([\w.-]+)`", line.split("|")[1]):
                    for place in places:
                        found.setdefault(place, set()).add(key)
    for place in ("gridkeep", "gridkeep.store.etcd", "gridkeep.telemetry"):
        for key in [key for key in found[place] if "." in key]:
            found[place].remove(key)
            outer, inner = key.split(".")
            found[place].add(outer)
            found[f"{place}.{outer}"].add(inner)
    return found


def test_configuration_keys(tmp_path):
    assert keys_of_the_document() == keys_of_the_program(tmp_path)


def test_yaml_of_the_documents_is_known(tmp_path):
    checked = 0
    for page in PAGES:
        for fence in re.findall(r"^( *)```yaml\n(.*?)^ *```", page.read_text(), re.M | re.S):
            path = tmp_path / "example.yaml"
            path.write_text(re.sub(rf"^{fence[0]}", "", fence[1], flags=re.M))
            out = run("config", "check", "--config", path).stdout
            assert "is not known here" not in out and "fatal:" not in out, f"{page.name}\n{fence[1]}\n{out}"
            checked += 1
    assert checked > 8


def test_keys_named_in_prose_exist(tmp_path):
    keys = keys_of_the_program(tmp_path)
    dotted = {f"{place}.{key}" for place in keys if place.startswith(("gridkeep", "cluster")) for key in keys[place]}
    for page in PAGES:
        for name in re.findall(r"`((?:gridkeep|cluster)\.[a-z_.]+?)(?:: [^`]*)?`", page.read_text()):
            if name not in ("gridkeep.service",):
                assert name in dotted, f"{page.name}: {name}"


def test_quoted_messages_are_in_the_program():
    source = "\n".join(path.read_text() for path in SOURCES.rglob("*.rs"))
    source = re.sub(r"\\\n\s*", "", source).replace('\\"', '"')
    text = (DOCS / "operate.md").read_text().partition("## Messages and what to do")[2].partition("\n## ")[0]
    checked = 0
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        for message in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
            for part in re.split(rf"{ELLIPSIS}|: |; |/operator\.sock", message):
                part = part.strip(" :;()\"")
                if len(part) > 8:
                    assert part in source, f"the program never says: {part}"
                    checked += 1
    assert checked > 30


def test_links():
    def anchors(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for page in [*PAGES, *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_systemd_unit(tmp_path):
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing; scripts/prepare test installs it"
    unit = tmp_path / "gridkeep-example.service"
    unit.write_text((ROOT / "dist/systemd/gridkeep.service").read_text().replace("/usr/bin/gridkeep", str(GRIDKEEP)))
    dropped_in = tmp_path / "gridkeep-example.service.d" / "override.conf"
    dropped_in.parent.mkdir()
    text = re.sub(r"^ +", "", (DOCS / "operate.md").read_text(), flags=re.M)
    changes = re.findall(r"^# systemctl edit gridkeep\n(\[Service\]\n(?:\w.*\n)+)", text, re.M)
    assert len(changes) > 2
    for change in ["", *changes]:
        dropped_in.write_text(change)
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=PATIENCE)
        assert "gridkeep-example" not in done.stderr, f"{change}{done.stderr}"
