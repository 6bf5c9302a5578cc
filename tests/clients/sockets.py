"""WebSocket clients that do as they are told: python's `websockets`, a line of JSON in, a line of JSON out.

    {"do": "open", "as": NAME, "url": URL, "protocols": [...], "reads": true}   {"ok": SUBPROTOCOL} or {"status": 503}
    {"do": "send", "as": NAME, "text": TEXT}, or "bytes": COUNT, or "count": N: the numbers from 0     {"ok": null}
    {"do": "recv", "as": NAME}, or "count": N                        {"ok": [TEXT, …]} or {"closed": CODE, "reason": …}
    {"do": "close", "as": NAME, "code": CODE, "reason": REASON}      {"ok": null}
    {"do": "is_open", "as": NAME}                                    {"ok": true}
"""

import json
import sys
import warnings

from dial import dial
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.protocol import State

# They live longer than a block of this program.
warnings.simplefilter("ignore", DeprecationWarning)

WITHIN = 60
clients = {}


def open_(told):
    # How many messages are read ahead of who takes them: beyond, the client stops reading.
    ahead = 1 if told.get("lazy") else None
    try:
        client = dial(told["url"], subprotocols=told.get("protocols"), max_queue=ahead, ping_interval=None)
    except InvalidStatus as error:
        return {"status": error.response.status_code}
    clients[told["as"]] = client
    return {"ok": client.subprotocol}


def send(client, told):
    if "count" in told:
        for number in range(told["count"]):
            client.send(str(number))
    elif "bytes" in told:
        client.send(bytes(told["bytes"]))
    else:
        client.send(told["text"])


def recv(client, told):
    def one():
        message = client.recv(timeout=WITHIN)
        return message if isinstance(message, str) else f"{len(message)} bytes"

    return [one() for _ in range(told.get("count", 1))]


def do(told):
    if told["do"] == "open":
        return open_(told)
    client = clients[told["as"]]
    try:
        match told["do"]:
            case "send":
                return {"ok": send(client, told)}
            case "recv":
                return {"ok": recv(client, told)}
            case "close":
                return {"ok": client.close(told["code"], told["reason"])}
            case "is_open":
                return {"ok": client.protocol.state is State.OPEN}
    except ConnectionClosed as error:
        return {"closed": error.rcvd and error.rcvd.code, "reason": error.rcvd and error.rcvd.reason}


for line in sys.stdin:
    print(json.dumps(do(json.loads(line))), flush=True)
