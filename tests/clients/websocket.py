"""A WebSocket client for the stories: python's `websockets`, one subcommand for each story.

Called as `websocket.py STORY URL`; prints `fine` when everything was as the story wants it.
"""

import os
import sys

from dial import dial
from websockets.exceptions import ConnectionClosed


def messages(url):
    with dial(url) as socket:
        socket.send("héllo, wörld")
        assert socket.recv() == "héllo, wörld"
        socket.send(bytes(range(256)))
        assert socket.recv() == bytes(range(256))
        socket.send("")
        assert socket.recv() == ""
        # Fragments: an iterable is sent as one message in several frames.
        socket.send(["one ", "two ", "three"])
        assert socket.recv() == "one two three"
        socket.send([b"\x00" * 70000, b"\x01" * 70000])
        assert socket.recv() == b"\x00" * 70000 + b"\x01" * 70000
        for number in range(100):
            socket.send(str(number))
        assert [socket.recv() for _ in range(100)] == [str(number) for number in range(100)]


def control(url):
    with dial(url, ping_interval=None) as socket:
        assert socket.ping("are you there").wait(60), "no pong came"
        # A ping between the fragments of a message is answered, and the message stays whole.
        def pieces():
            yield "before "
            assert socket.ping().wait(60), "no pong came within a message"
            yield "after"
        socket.send(pieces())
        assert socket.recv() == "before after"
        socket.close(1000, "good bye")
    assert socket.close_code == 1000, socket.close_code
    assert socket.protocol.close_rcvd is not None, "the node answered the close"


def large(url):
    """Up to the limit of 1 MiB a message comes back; above, the node closes with 1009."""
    message = os.urandom(1 << 20)
    pieces = [message[at : at + (1 << 18)] for at in range(0, len(message), 1 << 18)]
    with dial(url) as socket:
        socket.send(pieces)
        assert socket.recv() == message
    for too_large in ([*pieces, b"x"], [b"x" * ((1 << 18) + 1)]):
        with dial(url) as socket:
            try:
                socket.send(too_large)
                socket.recv()
                raise AssertionError("too large, and not refused")
            except ConnectionClosed:
                assert socket.close_code == 1009, socket.close_code


def stay(url):
    """Says `open`, says nothing to the node, stays until the node closes, and tells with what."""
    with dial(url) as socket:
        print("open", flush=True)
        try:
            socket.recv()
        except ConnectionClosed:
            print(socket.close_code, flush=True)


def churn(url):
    """Opens and closes, in every way that a client can."""
    for number in range(20):
        socket = dial(url)
        socket.send("x" * (number * 997))
        if number % 4 == 0:
            socket.recv()
            socket.close()
        elif number % 4 == 1:
            socket.socket.close()
        elif number % 4 == 2:
            socket.close()
        else:
            socket.recv()
            socket.socket.close()


globals()[sys.argv[1]](sys.argv[2])
print("fine")
