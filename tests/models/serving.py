"""A small HTTP server on this machine, good and bad in every way in which servers are."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CONTENT = bytes(range(256)) * 2000  # half a megabyte

Reply = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Replies to each path as told.

    Attributes:
        replies: path -> what to do; other paths get 404.
        requests: the path and the headers of every request so far.
        closing: is set when the test is over, for replies that wait.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, Reply] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        self.server.replies.get(self.path, status(404))(self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


def send(handler: Handler, code: int = 200, content: bytes = b"", **headers: object) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(content)


def good(content: bytes = CONTENT, **headers: object) -> Reply:
    return lambda handler: send(handler, content=content, Content_Length=len(content), **headers)


def status(code: int) -> Reply:
    return lambda handler: send(handler, code, Content_Length=0)


def truncated(handler: Handler) -> None:
    send(handler, content=CONTENT[:-1000], Content_Length=len(CONTENT))


def truncated_in_chunks(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    send(handler, content=b"3e8\r\n" + CONTENT[:1000] + b"\r\n3e8\r\n" + CONTENT[:10], Transfer_Encoding="chunked")
    handler.close_connection = True


def without_length(handler: Handler) -> None:
    send(handler, content=CONTENT)


def silent(handler: Handler) -> None:
    handler.server.closing.wait(5)


def stalled(handler: Handler) -> None:
    send(handler, content=CONTENT[:1000], Content_Length=len(CONTENT))
    handler.server.closing.wait(5)


def dripping(handler: Handler) -> None:
    """A byte every 20 ms: never silent for long, and not done for a long time."""
    send(handler, Content_Length=len(CONTENT))
    for _ in range(250):
        if handler.server.closing.wait(0.02):
            return
        try:
            handler.wfile.write(b"x")
        except OSError:  # the other side has had enough
            return


def redirected(address: str, **headers: object) -> Reply:
    return lambda handler: send(handler, 302, Location=address, Content_Length=0, **headers)
