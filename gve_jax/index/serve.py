"""A search page of an index, on this machine; needs the `web` extra.

python -m gve_jax.index serve --index=runs/index
"""

import contextlib
import ipaddress
import socket

from absl import flags

from gve_jax.config import default_config
from gve_jax.embed.flags import embedder_from_flags
from gve_jax.index.flags import INDEX, arguments
from gve_jax.index.folder import read_commit
from gve_jax.index.searching import Request, Searcher, make_query
from gve_jax.index.store import local_path
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

REQUIRED = ("index",)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines search."
)
_PORT = flags.DEFINE_integer(
    "port", 8008, "Port; 0 takes a free one.", lower_bound=0, upper_bound=65535
)
_NAMES = flags.DEFINE_list(
    "names", [], "Host names by which browsers may call it, besides localhost."
)
_UPLOAD_MB = flags.DEFINE_integer(
    "upload_mb", 64, "Megabytes of an image or clip to search by.", lower_bound=1
)
_CONNECTIONS = 512


def main(argv: list[str]) -> None:
    if rest := arguments(argv, ""):
        raise UserError(f"serve takes flags only, not {rest[0]!r}")
    try:
        import uvicorn

        from gve_jax.index.web import make_app
    except ImportError as e:
        raise UserError(
            f"the page needs {e.name}: pip install 'gve_jax[web]'"
        ) from None
    listening = _listen(_HOST.value, _PORT.value)
    config = default_config()
    # A clip comes from anybody: it is read in a process that may crash.
    config.embed.update(decode_workers=1, decode_timeout_s=30.0, decode_memory_mb=2048)
    embedder = embedder_from_flags(config, like=read_commit(INDEX.value)["model"])
    searcher = Searcher(INDEX.value, embedder)
    warm(searcher)
    app = make_app(searcher, _UPLOAD_MB.value * 1_000_000, (_HOST.value, *_NAMES.value))
    port = listening.getsockname()[1]
    url = f"http://{f'[{_HOST.value}]' if ':' in _HOST.value else _HOST.value}:{port}"
    print(f"{url} searches {INDEX.value}; Ctrl-C ends it", flush=True)
    if not _is_loopback(_HOST.value):
        print("whoever can reach this address can see all indexed files", flush=True)
    settings = uvicorn.Config(
        app,
        log_level="warning",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=3,
        ws="none",
        server_header=False,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Before anything is loaded, so that a taken port is known at once."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as e:
        raise UserError(
            f"--host={host} --port={port}: cannot listen there ({e.strerror}); "
            "--port=0 takes a free port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warm(searcher: Searcher) -> None:
    """Compiles what searches by text need, for few and for many at once.

    And starts what reads media, on a file of the index.
    """
    asked = [
        [make_query(text=f"warming up {i}") for i in range(size)]
        for size in (1, 2, 4, 8, 16, 32)
    ]
    index = searcher.opened.index
    for item in index.items.slice(0, 1).to_pylist():
        kind = "image" if item["kind"] == "image" else "video"
        asked.append([make_query(**{kind: local_path(item["file"])})])
    with ProgressLine("compile", len(asked), "kinds of search") as line:
        for queries in asked:
            searcher.answer([Request(query, k=24) for query in queries])
            line.advance()
