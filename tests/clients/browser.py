"""Chromium, told what to do: a line of JSON in, a line of JSON out. Called as `browser.py CHROMIUM FLAG…`.

    {"do": "open", "as": NAME, "url": URL}       opens a page in a profile of its own; {"ok": null} when it has loaded
    {"do": "run", "as": NAME, "script": TEXT}    {"ok": VALUE} of the expression, once its promise is kept
"""

import json
import subprocess
import sys
import warnings

from dial import dial

# Its connection lives longer than a block of this program.
warnings.simplefilter("ignore", DeprecationWarning)

WITHIN = 60


class Browser:
    def __init__(self, command):
        nothing = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=nothing, stdout=nothing, text=True)
        for line in self.process.stderr:
            if line.startswith("DevTools listening on "):
                break
        self.socket = dial(line.split()[-1])
        self.number = 0
        self.pages = {}

    def ask(self, method, params, session=None):
        self.number += 1
        told = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps(told | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self.socket.recv(timeout=WITHIN))
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(answer["error"])
                return answer["result"]

    def open(self, name, url):
        context = self.ask("Target.createBrowserContext", {})["browserContextId"]
        target = self.ask("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
        session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.pages[name] = session
        self.ask("Page.navigate", {"url": url}, session)
        loaded = "new Promise(done => document.readyState === 'complete' ? done() : onload = () => done())"
        return self.run(name, loaded)

    def run(self, name, script):
        params = {"expression": script, "awaitPromise": True, "returnByValue": True}
        result = self.ask("Runtime.evaluate", params, self.pages[name])
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")


browser = Browser([*sys.argv[1:], "--remote-debugging-port=0", "about:blank"])
try:
    for line in sys.stdin:
        told = json.loads(line)
        if told["do"] == "open":
            said = browser.open(told["as"], told["url"])
        else:
            said = browser.run(told["as"], told["script"])
        print(json.dumps({"ok": said}), flush=True)
finally:
    browser.process.terminate()
    browser.process.wait()
