"""A job system's API, as a real server on loopback."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reactor.cli.embedded import HOST

Jobs = dict[str, Any]
"""By id: a status, or the whole of an answer (code, body, headers), or seconds to wait for none."""
DRIP = object()
"""An answer whose body comes a byte a second."""


class Api:
    """Its URL, its jobs, and the tokens of its requests."""

    def __init__(self) -> None:
        self.jobs: Jobs = {}
        self.tokens = set[str | None]()
        self.is_gateway = False
        """It answers 404 for everything, as one whose service is down."""
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # http.server's
                api.tokens.add(self.headers.get("Authorization"))
                job = api.jobs.get(self.path.removeprefix("/jobs/"))
                if isinstance(job, float):
                    time.sleep(job)
                code, body, headers = 200, b" " * 60, {}
                if job is None or api.is_gateway:
                    code, body = 404, b"{}"
                elif isinstance(job, tuple):
                    code, body, headers = (*job, {})[:3]
                elif job is not DRIP:
                    body = json.dumps({"status": job}).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for byte in body if job is DRIP else ():
                    with suppress(OSError):
                        self.wfile.write(bytes([byte]))
                        time.sleep(1)
                if job is not DRIP:
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}/jobs/{{job_id}}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
