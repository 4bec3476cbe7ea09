"""The demonstration: it comes to its end, what it says to type next works, and nothing stays behind."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.processes import CACHE, GRIDKEEP, PATIENCE, TESTBED, wait_until


@pytest.fixture
def room(tmp_path):
    """Home and temporary directory of one demo; at the end no file is in them and no process knows of them."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    yield tmp_path
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "home").iterdir())
    wait_until(lambda: not processes_that_know(str(tmp_path / "tmp")), "no process knows of the demo's directory")


def processes_that_know(directory: str) -> list[str]:
    """Command lines of processes that name `directory` in their arguments or environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            arguments, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if directory.encode() in arguments + environment:
            found.append(arguments.replace(b"\0", b" ").decode(errors="replace"))
    return found


def environment(room) -> dict:
    return {"PATH": os.environ["PATH"], "HOME": str(room / "home"), "TMPDIR": str(room / "tmp")}


def demo(room, *words, **options):
    return subprocess.Popen(
        [str(TESTBED), "demo", *map(str, words)], env=environment(room), text=True, start_new_session=True,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def finished(process) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE * 2)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, out, err


def read_until(process, wanted: str) -> str:
    """Lines of a demo up to the one that contains `wanted`."""
    seen = []
    while not (seen and wanted in seen[-1]):
        line = process.stdout.readline()
        assert line, f"ended before it said {wanted!r}: {''.join(seen)}\n{process.stderr.read()}"
        seen.append(line)
    return "".join(seen)


def test_once_ends_with_a_verified_token(room):
    code, out, err = finished(demo(room, "--once"))
    assert code == 0, out + err
    assert err == ""
    assert "Result: accepted" in out
    verified = re.findall(r"^Verified token: issuer (https://127\.0\.0\.1:\d+), subject sub-alice, good until \S+Z\.$", out, re.M)
    assert len(verified) == 2 and len(set(verified)) == 1
    before, after = (int(re.search(rf"{when} +iss .* exp (\d+) ", out)[1]) for when in ("before", "after"))
    assert after > before, "the refreshed token lives longer"
    assert "The issuer counts 1 login and 1 refresh." in out
    assert out.index("gridkeep server") < out.index("gridkeep get") < out.index("gridkeep decode") < out.index("gridkeep verify")


def test_without_the_program_it_says_what_to_do(room):
    code, out, err = finished(demo(room, "--once", "--gridkeep", room / "absent"))
    assert (code, out) == (1, "")
    assert f"there is no program {room / 'absent'}" in err and "make demo" in err and "--gridkeep" in err


def test_a_server_that_does_not_start_is_told_with_its_words(room):
    program = room / "gridkeep"
    program.write_text("#!/bin/sh\necho 'the port is taken' >&2\nexit 3\n")
    program.chmod(0o755)
    code, out, err = finished(demo(room, "--once", "--gridkeep", program))
    assert code == 1
    assert "ended by itself (exit status: 3)" in err and "the port is taken" in err


def test_a_closed_output_ends_it(room):
    process = demo(room)
    read_until(process, "gridkeep server")
    process.stdout.close()
    assert process.wait(PATIENCE) == 1
    assert "cannot be written" in process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_nothing(room, number):
    # The login lasts until the signal comes, however late that is.
    program = room / "gridkeep"
    program.write_text(f'#!/bin/sh\n[ "$1" = get ] && exec sleep 1000\nexec "{GRIDKEEP}" "$@"\n')
    program.chmod(0o755)
    process = demo(room, "--gridkeep", program)
    read_until(process, "gridkeep get")
    process.send_signal(number)
    code, _, err = finished(process)
    assert code == 1
    assert "before the last step" in err


def test_it_goes_on_until_it_is_told_to_end(room):
    process = demo(room)
    try:
        out = read_until(process, "Ctrl-C ends the demo")
        rest = out[out.index("It goes on running."):]
        exports = "\n".join(line.strip() for line in rest.splitlines() if line.startswith("    export "))
        commands = [line[4:] for line in rest.splitlines() if line.startswith("  $ ")]
        assert exports.count("export") == 7

        def typed(command, **options):
            done = subprocess.run(
                ["bash", "-c", f"{exports}\n{command}"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
                timeout=PATIENCE, **{"stdin": subprocess.DEVNULL, **options},
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            return done.stdout

        def bob_logs_in(log_in, approve):
            master, slave = pty.openpty()
            with subprocess.Popen(["bash", "-c", f"{exports}\n{log_in}"], stdin=slave, stdout=subprocess.PIPE, text=True) as bob:
                os.close(slave)
                for line in bob.stdout:
                    if "/device?user_code=" in line:
                        break
                assert '"done":1' in typed(approve).replace(" ", "")
                assert "Storing bearer token" in bob.stdout.read()
            os.close(master)
            assert bob.returncode == 0

        # In the order in which they are printed: whoever pastes one after the other gets as far.
        original = CACHE / "venv" / "bin" / "htgettoken"
        own = iter([
            ("gridkeep get", "Storing bearer token"), ("gridkeep decode", "sub-alice"), ("gridkeep explain", "sub-alice"), ("gridkeep verify", "accepted"),
            ("gridkeep sh", "sub-alice"), ("gridkeep status", "takes writes"), ("gridkeep operator credentials", "demo/alice/cron/demo:default  works"),
            ("gridkeep operator tokens alice", "alice"), ("gridkeep operator token ", "hvs."), ("gridkeep config show", "name: demo"),
            ("gridkeep audit verify", "all there, unchanged and in order"), ("gridkeep get --credkey=bob", None), ("gridkeep destroy", "Removing"),
        ])
        urls = iter([
            ("/sys/health", '"sealed":false'), ("/lookup-self", '"display_name"'), ("showbearerurl", '"access_token"'), ("/metrics", "gridkeep_"),
            ("/userinfo", "sub-alice"), ("/approve", None), ("/counters", '"grant_types"'),
        ])
        bob = None
        for command in commands:
            if "venv" in command:
                if original.exists() and command.endswith("/venv/bin/htgettoken"):
                    assert "Storing bearer token" in typed(str(original))
            elif "approve" in command:
                assert next(urls)[0] in command
                bob_logs_in(bob, command)
            elif "credkey=bob" in command:
                assert command.startswith(next(own)[0])
                bob = command
            elif command.startswith("tail "):
                assert typed(command)
            else:
                begins, says = next(own if command.startswith("gridkeep") else urls)
                assert begins in command, f"{begins!r} is next, not {command!r}"
                assert says.replace(" ", "") in typed(command).replace(" ", ""), command
        assert next(own, None) is None and next(urls, None) is None
        process.send_signal(signal.SIGTERM)
        code, end, err = finished(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert (code, err) == (0, "")
    assert "Everything is stopped" in end


@pytest.mark.parametrize("mode", ["device", "direct"])
def test_with_an_operators_own_files(room, make_issuer, entry, mode):
    issuer = make_issuer()
    config = room / "htvault-config"
    (config / "config.d").mkdir(parents=True)
    listening = "127.0.0.1:1"
    files = {
        "10-issuers.yaml": {"issuers": [entry(issuer, mode=mode)], "cluster": {"name": "htvault.example.org", "auditlog": str(room / "real-audit.log")}},
        # Places of the real server, none of which may be touched.
        "20-own.yaml": {"gridkeep": {"listen": [listening], "data": str(room / "real-data"), "run_directory": str(room / "real-run")}},
    }
    for name, content in files.items():
        (config / "config.d" / name).write_text(json.dumps(content))
    master, slave = pty.openpty()
    process = demo(room, "--once", "--config", config, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    end = time.monotonic() + PATIENCE * 2
    asked = False
    while time.monotonic() < end:
        ready, _, _ = select.select([master], [], [], 1)
        if not ready:
            continue
        try:
            block = os.read(master, 65536)
        except OSError:  # the last holder of the other end has gone
            break
        if not block:
            break
        seen += block
        if not asked and b"/device?user_code=" in seen:
            asked = True
            assert issuer.admin("approve", {"user": "alice", "wait_ms": 30000})["done"] == 1
    text = seen.decode().replace("\r\n", "\n")
    os.close(master)
    assert process.wait(PATIENCE) == 0, text
    assert "config check --config" in text and "1 issuer with 1 role" in text
    assert text.count("Verified token: issuer " + issuer.url) == 2
    assert ("is set to callbackmode direct" in text) == (mode == "direct")
    assert not re.search(rf"serves on {re.escape(listening)}\b", text), "the real address is not listened on"
    assert issuer.client_secret not in text
    assert sorted(path.name for path in room.iterdir() if path.name.startswith("real-")) == []


def test_an_operators_mistakes_are_told(room):
    code, _, err = finished(demo(room, "--once", "--config", room / "absent"))
    assert code == 1 and "There is nothing at" in err
    broken = room / "broken.yaml"
    broken.write_text("issuers: [\n")
    code, out, err = finished(demo(room, "--once", "--config", broken))
    assert code == 1 and "config check" in err and "broken.yaml" in out
    empty = room / "empty.yaml"
    empty.write_text("cluster: {name: h.example.org}\n")
    code, out, err = finished(demo(room, "--once", "--config", empty))
    assert code == 1, out + err
    assert "issuer" in err

