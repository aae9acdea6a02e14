"""A headless Chromium that tests drive over its DevTools protocol.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import MissingServer
from websockets.sync.client import ClientConnection, connect

START_S = 30.0
WAIT_S = 20.0
NAMES = ("chromium", "google-chrome")
# It must not ask its maker's hosts for updates and the like. Its sandbox needs rights that root and users in
# containers do not have, and it opens nothing but pages of this machine.
WORDS = (
    *("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-default-browser-check"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--no-sandbox", "--no-proxy-server"),
)

Message = dict[str, Any]


class Page:
    """A tab of its own, with storage of its own; what it asked the net for and complained about is kept."""

    def __init__(self, browser: "Browser", session: str, context: str) -> None:
        self._browser, self._session, self._context = browser, session, context
        self.requested: list[str] = []
        """Every address that was asked for."""
        self.complaints: list[str] = []
        """Errors and warnings of scripts and of the browser."""
        self.refused: list[str] = []
        """Complaints about requests that came to nothing."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Message:
        """The result of a command of the protocol."""
        return self._browser.call(method, parameters, self._session)

    def open(self, address: str) -> None:
        """Go there, and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        done = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in done, f"{script}: {done['exceptionDetails']}"
        return done["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + WAIT_S
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"never came true: {script}\n{self.text('body')}\n{self.complaints}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What somebody reads there; nothing where it can't be seen."""
        return str(self.run(_text(selector)))

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until a text can be read there."""
        self.wait(f"({_text(selector)}).includes({json.dumps(text)})")

    def click(self, selector: str) -> None:
        """Click with the mouse, on what is in sight then."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y = self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Write into a field; a newline in the text is the Enter key."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        for i, line in enumerate(text.split("\n")):
            if i:
                self.press("Enter", "\r")
            if line:
                self.call("Input.insertText", text=line)

    def press(self, key: str, text: str = "", *, shift: bool = False) -> None:
        """Press and let go of one key."""
        code = {"Enter": 13, "Tab": 9}[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def look(self, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Give the window a size, with scroll bars that take no place, and the user a preference for light or dark."""
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def download_to(self, folder: Path) -> None:
        """Have downloads go to a folder, without a question."""
        asked = {"behavior": "allow", "downloadPath": str(folder), "browserContextId": self._context}
        self._browser.call("Browser.setDownloadBehavior", asked)

    def picture(self, path: Path) -> None:
        """Keep the whole page as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def told(self, event: Message) -> None:
        """Keep what an event says."""
        name, values = event["method"], event["params"]
        if name == "Network.requestWillBeSent":
            self.requested.append(values["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.complaints.append(str(values["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled":
            self.complaints.append(str(values["args"]))
        elif name == "Log.entryAdded":
            entry = values["entry"]
            kept = self.refused if entry["source"] == "network" else self.complaints
            kept.append(f"{entry['text']} {entry.get('url', '')}")


def _text(selector: str) -> str:
    return f"(node => node?.checkVisibility() ? node.innerText : '')(document.querySelector({json.dumps(selector)}))"


class Browser:
    """A running Chromium."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}

    def call(self, method: str, parameters: Message, session: str | None = None) -> Message:
        """The result of a command; events that come before it go to their pages."""
        number = next(self._numbers)
        sent = {"id": number, "method": method, "params": parameters}
        self._connection.send(json.dumps(sent | ({"sessionId": session} if session else {})))
        while True:
            message = json.loads(self._connection.recv(timeout=WAIT_S))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            if (page := self._pages.get(message.get("sessionId", ""))) is not None and "method" in message:
                page.told(message)

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new tab that knows nothing of the others."""
        context = self.call("Target.createBrowserContext", {})["browserContextId"]
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self._pages[session] = page = Page(self, session, context)
        yield page
        del self._pages[session]
        self.call("Target.disposeBrowserContext", {"browserContextId": context})


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """A Chromium that keeps its files in an empty folder. Raises MissingServer."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        raise MissingServer("chromium is missing: `make servers` installs it where it may")
    words = [*WORDS, f"--user-data-dir={folder / 'profile'}"]
    env = {**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program, *words], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with connect(_address(process, folder), max_size=None, open_timeout=START_S, proxy=None) as connection:
            yield Browser(connection)
            connection.send(json.dumps({"id": 0, "method": "Browser.close"}))
    finally:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", folder: Path) -> str:
    """Where it listens: it writes that down once it does."""
    written = folder / "profile/DevToolsActivePort"
    deadline = time.monotonic() + START_S
    while not (written.exists() and len(written.read_text().splitlines()) == 2):
        told = (folder / "log").read_text("utf-8", "replace")
        assert process.poll() is None, f"Chromium has ended: {told}"
        assert time.monotonic() < deadline, f"Chromium does not listen: {told}"
        time.sleep(0.02)
    port, path = written.read_text().splitlines()
    return f"ws://127.0.0.1:{port}{path}"
