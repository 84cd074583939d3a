"""A headless Chromium, driven over its debugging pipe: no other package is needed."""

import contextlib
import itertools
import json
import os
import pathlib
import select
import shlex
import shutil
import subprocess
import time

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
_TIMEOUT_S = 120


class Tab:
    """One page; `faults` are the errors that it reported."""

    def __init__(self, folder: pathlib.Path):
        theirs, self._out = os.pipe()
        self._in, ours = os.pipe()
        command = [
            *(PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"),
        ]
        # The browser reads commands from 3 and answers on 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {shlex.join(command)} 3<&{theirs} 4>&{ours}"],
            pass_fds=(theirs, ours),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        self._numbers, self._buffer = itertools.count(1), b""
        self._events: list[str] = []
        self.faults: list[dict] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        found = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params) -> dict:
        return self._ask(method, **params, _of=self._session)

    def open(self, path: pathlib.Path, width: int = 1200) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        self._events.clear()
        self.ask("Page.navigate", url=path.absolute().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()

    def value(self, expression: str):
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                **{"type": kind, "key": key, "windowsVirtualKeyCode": code},
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._ask("Browser.close")
        self._process.terminate()
        self._process.wait(_TIMEOUT_S)
        os.close(self._out)
        os.close(self._in)

    def _ask(self, method: str, *, _of: dict | None = None, **params) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | (_of or {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict:
        end = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], end - time.monotonic())
            piece = os.read(self._in, 1 << 20) if ready else b""
            assert piece, "the browser does not answer"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._events.append(message.get("method", ""))
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.faults.append(message["params"])
        return message
