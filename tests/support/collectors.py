"""Programs that collect telemetry, on free loopback ports: stand-ins for Loki and an OTLP collector, and a real Prometheus."""

import json
import subprocess
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .processes import PATIENCE, Process, wait_until


class Collector:
    """Takes what is posted to it. `status` is what it answers; with `silent` set it takes requests and answers none."""

    def __init__(self, status: int = 204):
        self.status = status
        self.requests: list[tuple[str, dict, bytes]] = []
        self.silent = threading.Event()
        self.ended = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if collector.silent.is_set():
                    collector.ended.wait(PATIENCE)
                    return
                status = collector.status
                if status < 300:
                    collector.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(PATIENCE)


class Prometheus:
    """Debian's Prometheus with its data below `directory`, scraping `target` every second under the rules of `rules`."""

    def __init__(self, directory: Path, target: str, rules: Path):
        directory.mkdir()
        config = directory / "prometheus.yml"
        # JSON is YAML.
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "gridkeep", "static_configs": [{"targets": [target]}]}],
        }))
        self.process = Process(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}", "--web.listen-address=127.0.0.1:0", "--log.format=json"],
            directory / "prometheus.log",
        )
        self.url = None
        self.url = "http://" + wait_until(self._address, "Prometheus listens", self.process)
        wait_until(self._ready, "Prometheus has opened its data", self.process)

    def _address(self):
        """The port it took: it says "Listening on" with the address it was given, so the kernel is asked."""
        shown = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        for line in shown.splitlines():
            if f"pid={self.process.pid}," in line:
                return line.split()[3]
        return None

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=PATIENCE) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def get(self, path: str, **parameters):
        """`data` of an answer of its API; its error as an exception."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> list:
        return self.get("query", query=expression)["result"]

    def stop(self) -> None:
        self.process.stop()
