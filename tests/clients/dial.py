"""How the clients of the stories connect: python's `websockets`, without compression and proxy."""

import ssl

from websockets.sync.client import connect


def dial(url, **options):
    """Connects.

    The client reads in a thread of its own while it sends its request, and OpenSSL lets only one into a
    connection, which CPython sees to from 3.13 on only (gh-124984). Before that a request over TLS is lost now and
    then; so it is tried three times.
    """
    context = None
    if url.startswith("wss:"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    options = {"ssl": context, "max_size": None, "compression": None, "proxy": None, "open_timeout": 20, **options}
    for _ in range(2):
        try:
            return connect(url, **options)
        except TimeoutError:
            pass
    return connect(url, **options)
