// The web's interfaces that the engine lacks, and those of its own that do not fit into turns, as globals. Loaded first.

import { host } from "./host.js";
import { makeFetch } from "./outgoing.js";
import { isRunning, wantTurn } from "./turn.js";
import { AbortController, AbortSignal } from "./web/abort.js";
import { structuredClone } from "./web/clone.js";
import { makeConsole } from "./web/console.js";
import { makeCrypto, makeRandom } from "./web/crypto.js";
import { TextDecoder, TextEncoder } from "./web/encoding.js";
import { Request, Response } from "./web/fetch.js";
import { Headers } from "./web/headers.js";
import { clearInterval, clearTimeout, Promise, queueMicrotask, setInterval, setTimeout } from "./web/jobs.js";
import { URL, URLSearchParams } from "./web/url.js";

const draw = (count) => {
  wantTurn("randomness");
  return host.draw(count);
};

// The engine's own begins in each instance with the seed of the build. Modules that are loaded may have that.
const [ofBuild, ofTurns] = [Math.random, makeRandom(draw)];
Math.random = () => (isRunning() ? ofTurns() : ofBuild());

// The engine's own makes a promise whose jobs nothing runs.
Array.fromAsync = async function fromAsync(items, map = (item) => item, self) {
  const made = [];
  for await (const item of items) made.push(await map.call(self, item, made.length));
  return made;
};

const define = (globals) => {
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
};

define({ Promise, queueMicrotask, setTimeout, clearTimeout, setInterval, clearInterval });
define({ Headers, Request, Response, fetch: makeFetch(host), URL, URLSearchParams, AbortController, AbortSignal });
define({ TextEncoder, TextDecoder, structuredClone, crypto: makeCrypto(draw), console: makeConsole(host.log, host.logError) });
define({ performance: { now: host.now, timeOrigin: 0 }, self: globalThis });
