"""A chat server that misbehaves as told, for tests of its clients."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator

OK, CUT, DRIP, HANG, RESET = "ok", "cut", "drip", "hang", "reset"


class Server:
    """Answers POST with the next of `script`: one of the words above, or (status,
    headers, body). After it, always OK: `answer(request body)` as content."""

    def __init__(self, answer: Callable[[dict], str], script=(), alive: bool = True):
        self.answer, self.script, self.alive = answer, list(script), alive
        self.finish, self.message = "stop", {}
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.lock, self.ended = threading.Lock(), threading.Event()

    def step(self, body: dict):
        with self.lock:
            return self.script.pop(0) if self.script else OK

    def content(self, body: dict) -> bytes:
        return self.completion(self.answer(body), self.finish)

    def completion(self, text: str, finish: str) -> bytes:
        message = {"role": "assistant", "content": text} | self.message
        choice = {"index": 0, "message": message, "finish_reason": finish}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        return json.dumps({"choices": [choice], "usage": usage}).encode()


@contextlib.contextmanager
def serving(server: Server) -> Iterator[str]:
    """The address of the running server, .../v1."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.reply(200 if server.alive else 503, {}, b"{}")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.bodies.append(body)
                server.headers.append(dict(self.headers))
            step = server.step(body)
            if isinstance(step, tuple):
                return self.reply(*step)
            content = server.content(body)
            if step == OK:
                return self.reply(200, {}, content)
            self.close_connection = True
            if step == RESET:
                return None
            if step == HANG:
                server.ended.wait(30)
                return None
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            if step == DRIP:
                with contextlib.suppress(OSError):
                    while not server.ended.is_set():
                        self.wfile.write(b" ")
                        time.sleep(0.02)
            return None

        def reply(self, status: int, headers: dict, content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    finally:
        server.ended.set()
        httpd.shutdown()
        httpd.server_close()
