"""A headless Chromium, driven over the pipe of its DevTools protocol by the standard library alone."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Without a graphics card, Chromium computes WebGPU on the processor.
WEBGPU_FLAGS = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
# Chromium reads commands at descriptor 3 and answers at 4.
LAUNCHER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
    " os.execv(sys.argv[3], sys.argv[3:])"
)
ANSWER_S = 60.0
# When the page may be used, has nothing left to look up, and has answered a drawing.
READY = "document.body && document.body.dataset.state === 'ready'"
QUIET = "document.getElementById('nearest').getAttribute('aria-busy') === 'false'"
SEEN = f"Boolean({QUIET} && window.edgecmdSeen && window.edgecmdSeen.isFinished)"
PIPE_BYTES = 1 << 20


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser; ``events`` are all that it reported."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self.process, self.commands, self.answers = process, commands, answers
        self.events: list[dict[str, Any]] = []
        self.buffer = b""
        self.count = 0
        self.session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(time.monotonic() + ANSWER_S)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, "The browser does not answer."
            chunk = os.read(self.answers, PIPE_BYTES)
            assert chunk, "The browser is gone."
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = ANSWER_S) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"Never true: {expression}; {self.complaints()}"
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int, *, is_phone: bool = False, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def stroke(
        self, corners: list[tuple[float, float]], *, selector: str = "#pad", num_steps: int = 8
    ) -> None:
        """Press the mouse at the first corner, move over the others, let go; parts of the element's box."""
        box = self.evaluate(
            f"(() => {{ const b = document.querySelector('{selector}').getBoundingClientRect();"
            " return [b.left, b.top, b.width, b.height]; })()"
        )

        def mouse(kind: str, x: float, y: float) -> None:
            place = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
            self.call("Input.dispatchMouseEvent", type=kind, **place, button="left", buttons=1, clickCount=1)

        mouse("mousePressed", *corners[0])
        for (from_x, from_y), (to_x, to_y) in itertools.pairwise(corners):
            for step in range(1, num_steps + 1):
                share = step / num_steps
                mouse("mouseMoved", from_x + (to_x - from_x) * share, from_y + (to_y - from_y) * share)
        mouse("mouseReleased", *corners[-1])

    def key(self, key: str, *, code: int = 0, modifiers: int = 0) -> None:
        text = {"text": key} if len(key) == 1 else {}
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Choose files in a field for files, as a person does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def requests(self) -> list[str]:
        """Addresses that were asked for since `open`."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What the console says: errors, warnings, uncaught exceptions, violations of the policy."""
        found = []
        for event in self.events:
            details = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(details)[:500])
            elif event.get("method") == "Log.entryAdded":
                found.append(details["entry"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled" and details["type"] in (
                "error",
                "warning",
            ):
                found.append(str([one.get("value") for one in details["args"]]))
        return found

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


def _high(descriptor: int) -> int:
    """The same file at a descriptor that `LAUNCHER` does not overwrite."""
    copies = [descriptor]
    while copies[-1] < 20:
        copies.append(os.dup(copies[-1]))
    for one in copies[:-1]:
        os.close(one)
    return copies[-1]


@contextlib.contextmanager
def open_browser(
    chromium: str, *, window: tuple[int, int] = (1280, 900), webgpu: bool = False
) -> Iterator[Browser]:
    """A fresh browser with a profile of its own; gone at the end with all its processes."""
    flags = [*(one for one in FLAGS if one != "--disable-gpu"), *WEBGPU_FLAGS] if webgpu else FLAGS
    commands_read, commands_write = os.pipe()
    answers_read, answers_write = os.pipe()
    commands_read, answers_write = _high(commands_read), _high(answers_write)
    profile = tempfile.mkdtemp(prefix="edgecmd-chromium-")
    command = [chromium, *flags, f"--user-data-dir={profile}", f"--window-size={window[0]},{window[1]}"]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, str(commands_read), str(answers_write), *command],
        pass_fds=(commands_read, answers_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": profile},
    )
    os.close(commands_read)
    os.close(answers_write)
    try:
        yield Browser(process, commands_write, answers_read)
    finally:
        _quietly(lambda: os.write(commands_write, b'{"id":0,"method":"Browser.close"}\0'))
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(commands_write)
        os.close(answers_read)
        _remove(profile)


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        action()


def _remove(folder: str) -> None:
    """Delete a profile; the last helper processes may still be writing."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):  # noqa: PTH110
            return
        time.sleep(0.1)
