"""A job system's API, as a real server on loopback."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reactor.cli.embedded import HOST

Jobs = dict[str, Any]
"""By id: a status, or the whole of an answer (code, body), or seconds to wait for none."""


class Api:
    """Its URL, its jobs, and the tokens that it was asked with."""

    def __init__(self) -> None:
        self.jobs: Jobs = {}
        self.tokens = set[str | None]()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # http.server's
                api.tokens.add(self.headers.get("Authorization"))
                job = api.jobs.get(self.path.removeprefix("/jobs/"))
                if isinstance(job, float):
                    time.sleep(job)
                code, body = job if isinstance(job, tuple) else (200, json.dumps({"status": job}).encode())
                if job is None:
                    code, body = 404, b"{}"
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}/jobs/{{job_id}}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
