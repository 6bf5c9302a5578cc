// `fetch`: requests to others. Each is a commit point, and waits in place for the whole reply.

import { wantTurn } from "./turn.js";
import { AbortSignal } from "./web/abort.js";
import { Request, Response } from "./web/fetch.js";
import { Headers } from "./web/headers.js";

/** The host takes a number of 31 bits from this engine. */
const MOST_MS = 2 ** 31 - 1;

const WORDS = {
  invalid: "the request cannot be sent",
  failed: "the request has no whole reply",
  "too-large": "the reply has more than 16 MiB",
  "not-built-yet": "the node does not have this yet",
};

/** The host's refusal as the Fetch standard has it: a TypeError, or the error of the signal. */
function failure(error) {
  const { tag, val } = error?.payload ?? {};
  if (tag === "timeout") return new DOMException("the reply took longer than the time given", "TimeoutError");
  if (!Object.hasOwn(WORDS, tag)) return error;
  return Object.assign(new TypeError(val === undefined ? WORDS[tag] : `${WORDS[tag]}: ${val}`), { code: tag });
}

/** `fetch` of this host. It follows no redirects. */
export function makeFetch(host) {
  return async function fetch(input, init) {
    wantTurn("fetch");
    const request = new Request(input, init);
    request.signal?.throwIfAborted();
    const left = request.signal ? AbortSignal.left(request.signal) : undefined;
    const body = await request.bytes();
    const { method, url } = request;
    const timeout = left === undefined ? null : Math.min(Math.ceil(left), MOST_MS);
    try {
      const reply = host.outgoing.fetch({ method, url, headers: Headers.toHost(request.headers), body }, timeout);
      return Response.ofHost(reply, url);
    } catch (error) {
      throw failure(error);
    }
  };
}
