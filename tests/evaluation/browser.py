"""A headless Chromium for tests, driven through ChromeDriver's HTTP interface (W3C WebDriver)."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
WHY_NOT = None if CHROMIUM and DRIVER else "needs chromium and chromedriver (chromium-driver)"

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's key of an element's id


class Browser:
    """One window of 1440 x 1000 pixels."""

    def __init__(self, scratch: Path) -> None:
        # The driver's and the browser's temporary files go where they are removed with the test's.
        environment = {**os.environ, "TMPDIR": str(scratch)}
        self._process = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True, env=environment
        )
        started = next(line for line in self._process.stdout if "started successfully" in line)
        self._url = f"http://127.0.0.1:{re.search('port ([0-9]+)', started)[1]}/session"
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": CHROMIUM, "args": [*arguments, "--window-size=1440,1000"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._post("", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/{session['sessionId']}"

    def close(self) -> None:
        self._open(urllib.request.Request(self._url, method="DELETE")).close()
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()

    def open(self, page: Path) -> None:
        patience = time.monotonic() + 60
        self._post("/url", {"url": "about:blank"})  # so that a new #fragment loads the page too
        self._post("/url", {"url": page.as_uri()})
        # On a busy machine ChromeDriver may take the end of the blank page for that of this one.
        there = "location.protocol === 'file:' && document.readyState === 'complete'"
        while not self.js(there):
            assert time.monotonic() < patience, f"{page} did not load"

    def js(self, script: str):
        return self._post("/execute/sync", {"script": f"return {script}", "args": []})

    def text(self, selector: str) -> str:
        return self.js(f"document.querySelector({json.dumps(selector)}).textContent")

    def click(self, selector: str) -> None:
        self._post(f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Replace the text of an input."""
        element = self._find(selector)
        self._post(f"/element/{element}/clear", {})
        self._post(f"/element/{element}/value", {"text": text})

    def press(self, selector: str, key: str) -> None:
        self._post(f"/element/{self._find(selector)}/value", {"text": key})

    def click_at(self, selector: str, x: float, y: float) -> None:
        """Click a point of an element, counted from its upper left corner."""
        box = self.js(
            f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )
        move = {"type": "pointerMove", "x": round(box["x"] + x), "y": round(box["y"] + y)}
        press = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        pointer = {"type": "pointer", "id": "mouse", "actions": [move, *press]}
        self._post("/actions", {"actions": [pointer]})

    def console(self) -> list[dict]:
        """What the page has logged since the last call."""
        return self._post("/se/log", {"type": "browser"})

    def screenshot(self, path: Path) -> None:
        request = urllib.request.Request(f"{self._url}/screenshot")
        with self._open(request) as answer:
            path.write_bytes(base64.b64decode(json.load(answer)["value"]))

    def _find(self, selector: str) -> str:
        return self._post("/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def _post(self, path: str, body: dict):
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, method="POST")
        try:
            with self._open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error
