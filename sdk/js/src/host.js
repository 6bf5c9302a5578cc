// The only place that knows the component's imports.

import * as alarms from "berth:object/alarms@0.1.0";
import * as identity from "berth:object/identity@0.1.0";
import * as outgoing from "berth:object/outgoing@0.1.0";
import * as sockets from "berth:object/sockets@0.1.0";
import * as storage from "berth:object/storage@0.1.0";
import { getStderr } from "wasi:cli/stderr@0.2.12";
import { getStdout } from "wasi:cli/stdout@0.2.12";
import { now, subscribeDuration } from "wasi:clocks/monotonic-clock@0.2.12";
import { get as getConfig } from "wasi:config/store@0.2.0-rc.1";
import { getRandomBytes } from "wasi:random/random@0.2.12";
import { encode } from "./web/encoding.js";

/** What the stream takes at once. */
const MOST = 4096;

function write(stream, text) {
  const bytes = encode(text.toWellFormed());
  for (let at = 0; at < bytes.length; at += MOST) stream.blockingWriteAndFlush(bytes.subarray(at, at + MOST));
  stream[Symbol.dispose]?.();
}

export const host = {
  alarms,
  identity,
  outgoing,
  sockets,
  storage,
  /** A variable or a secret of the project, or null. */
  config: (name) => getConfig(name) ?? null,
  log: (text) => write(getStdout(), text),
  logError: (text) => write(getStderr(), text),
  /** So many random bytes. */
  draw: (count) => getRandomBytes(count),
  /** Milliseconds since some moment. */
  now: () => now() / 1e6,
  /** Waits in place. */
  sleep(ms) {
    const due = subscribeDuration(Math.ceil(ms * 1e6));
    due.block();
    due[Symbol.dispose]?.();
  },
};
