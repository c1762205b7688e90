"""Drives the page of `jacobi serve` in headless Chromium and checks what it shows.

Usage: check_serve_page.py CHROMIUM URL [DIR]; check-serve-page.sh calls it and lists the checks. It speaks Chromium's
DevTools protocol over a pipe, so the standard library suffices.
"""

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

PROMPT = os.environ.get("PROMPT", "Write a Python function that tells whether a number is prime.")
MAX_TOKENS = os.environ.get("MAX_TOKENS", "128")
API_KEY = os.environ.get("JACOBI_API_KEY", "")
SECONDS_MAX = float(os.environ.get("SECONDS_MAX", "300"))

# The contents of the page as one value.
SHOWN = """(() => {
  const lane = (id) => {
    const root = document.getElementById(id);
    const figure = (name) => Number(root.querySelector("dd." + name).textContent);
    return {
      state: root.classList[1], name: root.querySelector("h2").textContent,
      text: root.querySelector(".answer").textContent,
      origins: [...new Set([...root.querySelectorAll(".answer span")].map((span) => span.className))].sort(),
      passes: figure("passes"), tokens: figure("tokens"), perPass: figure("per-pass"), speed: figure("speed"),
    };
  };
  const tile = (id) => document.querySelector("#" + id + " b").textContent;
  const note = document.querySelector("#speed-ratio .note").textContent;
  return {
    ar: lane("ar"), served: lane("served"), error: document.getElementById("error").textContent,
    tiles: ["passes-ratio", "speed-ratio", "same"].map(tile), together: note.includes("both at once"),
    idle: !document.getElementById("send").disabled && document.getElementById("stop").disabled,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  };
})()"""


class Browser:
    """A Chromium with one tab; collects requests and errors of the page."""

    def __init__(self, path, profile):
        into, self.write_end = os.pipe()
        self.read_end, out = os.pipe()
        command = [path, "--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
                   "--disable-background-networking", "--disable-gpu", "--hide-scrollbars"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")

        # Chromium reads commands from descriptor 3 and answers on 4.
        def place_pipes():
            high = [os.dup(into), os.dup(out)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.log = open(Path(profile) / "browser.log", "w+")
        self.process = subprocess.Popen(command, preexec_fn=place_pipes, pass_fds=(3, 4), stdout=self.log,
                                        stderr=self.log)
        os.close(into)
        os.close(out)
        self.unread, self.count, self.session = b"", 0, None
        self.fetched, self.errors = [], []

    def open_tab(self):
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def message(self, timeout):
        """The next message of the browser, None after `timeout` seconds without one."""
        until = time.monotonic() + timeout
        while b"\0" not in self.unread:
            if not select.select([self.read_end], [], [], max(0, until - time.monotonic()))[0]:
                return None
            piece = os.read(self.read_end, 1 << 20)
            if not piece:
                self.log.seek(0)
                raise SystemExit(f"FAIL: Chromium ended:\n{self.log.read()[-2000:]}")
            self.unread += piece
        line, self.unread = self.unread.split(b"\0", 1)
        return json.loads(line)

    def call(self, method, **params):
        self.count += 1
        request = {"id": self.count, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.write_end, json.dumps(request).encode() + b"\0")
        while message := self.message(30):
            if message.get("id") == self.count:
                if "error" in message:
                    raise SystemExit(f"FAIL: {method}: {message['error']['message']}")
                return message["result"]
            self.note(message)
        raise SystemExit(f"FAIL: {method}: no answer from Chromium in 30 s")

    def note(self, message):
        method, params = message.get("method"), message.get("params", {})
        if method in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            self.fetched.append(params["request"]["url"] if "request" in params else params["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def evaluate(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"FAIL: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def wait(self, what, script):
        until = time.monotonic() + SECONDS_MAX
        while not self.evaluate(script):
            if time.monotonic() > until:
                raise SystemExit(f"FAIL: {what}: not within {SECONDS_MAX:g} s; shown: {self.evaluate(SHOWN)}")
            time.sleep(0.05)

    def type_into(self, selector, text):
        self.evaluate(f"document.querySelector('{selector}').focus(); document.querySelector('{selector}').select()")
        self.call("Input.insertText", text=text)

    def press(self, key, code, modifiers=0, text=""):
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector):
        """Clicks its middle with the mouse."""
        box = self.evaluate(f"""(() => {{
          const element = document.querySelector('{selector}');
          element.scrollIntoView({{ block: "center" }});
          const {{ x, y, width, height }} = element.getBoundingClientRect();
          return [x + width / 2, y + height / 2];
        }})()""")
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def screenshot(self, path, scheme, width, height):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2,
                  mobile=False)
        self.evaluate("scrollTo(0, 0)")
        if path:
            image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
            path.write_bytes(base64.b64decode(image))


def check(what, holds, shown):
    print(f"{'ok  ' if holds else 'FAIL'} {what}")
    if not holds:
        raise SystemExit(f"FAIL: {what}; shown: {json.dumps(shown, indent=1, ensure_ascii=False)}")


def check_race(browser, how):
    """Sends the typed prompt and compares both answers; the page is busy after the key press."""
    browser.press("Enter", 13, text="\r")
    browser.wait(f"{how}: finished", f"{SHOWN}.idle")
    shown = browser.evaluate(SHOWN)
    ar, served = shown["ar"], shown["served"]
    check(f"{how}: no error is shown", not shown["error"], shown)
    check(f"{how}: both finished", ar["state"] == served["state"] == "finished", shown)
    check(f"{how}: so the page says", shown["together"] == (how == "both at once"), shown)
    check(f"{how}: the texts are equal, not empty, and the page says so",
          ar["text"] and ar["text"] == served["text"] and shown["tiles"][2] == "equal", shown)
    check(f"{how}: the figures are there, and ar takes one token per pass",
          all(lane[name] for lane in (ar, served) for name in ("passes", "tokens", "perPass", "speed"))
          and abs(ar["tokens"] - ar["passes"]) <= 1, shown)
    check(f"{how}: ar shows no accepted draft", ar["origins"] == ["model"], shown)
    check(f"{how}: ratios are there", all(value.endswith("x") for value in shown["tiles"][:2]), shown)
    for lane in (ar, served):
        print(f"     {lane['name']}: {lane['tokens']} tokens in {lane['passes']} passes, {lane['speed']} tokens/s; "
              f"{', '.join(lane['origins'])}")
    print(f"     ratio of passes {shown['tiles'][0]}, of tokens per second {shown['tiles'][1]}")


def check_stop(browser):
    """Stops with Esc as soon as text arrives; the model may have finished before."""
    browser.press("Enter", 13, text="\r")
    browser.wait("stop: text came", f"{SHOWN}.ar.text || {SHOWN}.idle")
    browser.press("Escape", 27)
    browser.wait("stop: stopped", f"{SHOWN}.idle")
    shown = browser.evaluate(SHOWN)
    check("stop: Esc stops both, without an error",
          shown["served"]["state"] in ("stopped", "finished") and not shown["error"], shown)


def check_page(browser, url, folder):
    browser.screenshot(None, "light", 1280, 900)
    problem = browser.call("Page.navigate", url=url).get("errorText")
    check(f"{url} answers", not problem, problem)
    browser.wait("loading", "document.readyState === 'complete'")
    check("it is the page of jacobi serve", browser.evaluate("!!document.querySelector('#lanes #ar')"), url)
    if API_KEY:
        browser.type_into("#key", API_KEY)
    browser.type_into("#limit", MAX_TOKENS)
    browser.type_into("#prompt", "two")
    browser.press("Enter", 13, modifiers=8, text="\r")
    browser.call("Input.insertText", text="lines")
    typed = browser.evaluate("document.querySelector('#prompt').value")
    check("Shift+Enter starts a new line and does not send", typed == "two\nlines", typed)
    browser.type_into("#prompt", PROMPT)
    check_race(browser, "one after the other")
    sizes = [("light", "light", 1280, 900), ("dark", "dark", 1280, 900), ("narrow", "light", 390, 844)]
    for name, scheme, width, height in sizes:
        browser.screenshot(folder and folder / f"{name}.png", scheme, width, height)
        shown = browser.evaluate(SHOWN)
        check(f"{name}: nothing is wider than the screen", not shown["wide"], shown)
    browser.screenshot(None, "light", 1280, 900)
    browser.click("#together")
    browser.evaluate("document.querySelector('#prompt').focus()")
    check("the box for both at once can be ticked", browser.evaluate("document.querySelector('#together').checked"), "")
    check_race(browser, "both at once")
    check_stop(browser)
    # With a key, the page's first request of /v1/models lacks it and is refused, which Chromium logs.
    errors = [error for error in browser.errors if not (API_KEY and "401" in error and "/v1/models" in error)]
    check("no error in the console", not errors, errors)
    own = urlsplit(url)[:2]
    foreign = [each for each in browser.fetched if not each.startswith("data:") and urlsplit(each)[:2] != own]
    check(f"nothing fetched from elsewhere, in {len(browser.fetched)} requests", browser.fetched and not foreign,
          foreign)


def main():
    path, url = sys.argv[1:3]
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(path, profile)
        try:
            browser.open_tab()
            check_page(browser, url, folder)
        finally:
            browser.close()
    print("PASS")


if __name__ == "__main__":
    main()
