// The object's own data: keys and values of bytes, in the order of the keys' bytes. Text stands for its bytes as UTF-8.

import { ask, StorageError } from "./errors.js";
import { bytesOf, encode, TextDecoder } from "./web/encoding.js";

/** Text or bytes, as bytes. */
export const toBytes = (data) => (typeof data === "string" ? encode(data) : bytesOf(data));

/** Text of bytes; a TypeError if they are none. */
export const toText = (bytes) => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);

const toJson = (value) => {
  const text = JSON.stringify(value);
  if (text === undefined) throw new TypeError("JSON has no such value");
  return text;
};

/** A number as the host's `increment` reads it, if JavaScript counts so far exactly. */
function toNumber(bytes) {
  if (bytes === null) return 0;
  const text = new TextDecoder().decode(bytes);
  if (!/^-?[0-9]+$/.test(text)) throw new StorageError("not-a-number", StorageError.WORDS["not-a-number"]);
  return exact(Number(text));
}

function exact(number) {
  if (!Number.isSafeInteger(number)) throw new StorageError("overflow", StorageError.WORDS.overflow);
  return number;
}

/** A key with its value. */
export class Entry {
  constructor({ key, value }) {
    this.keyBytes = key;
    this.value = value;
  }

  /** The key as text. */
  get key() {
    return toText(this.keyBytes);
  }

  text() {
    return toText(this.value);
  }

  json() {
    return JSON.parse(this.text());
  }
}

/** The first key behind all that begin so; null if there is none. */
export function afterPrefix(prefix) {
  const last = prefix.findLastIndex((byte) => byte < 255);
  if (last < 0) return null;
  const after = prefix.slice(0, last + 1);
  after[last] += 1;
  return after;
}

/** What the host is asked for. `start` and `end` are within the prefix, if there is one. */
function toRange({ prefix, start, end, reverse = false, limit = 0 } = {}) {
  const bytes = (data) => (data === undefined || data === null ? null : toBytes(data));
  const from = bytes(prefix);
  const range = { start: bytes(start) ?? from, end: bytes(end) ?? (from && afterPrefix(from)), reverse: Boolean(reverse) };
  if (range.start?.length === 0) range.start = null;
  if (!Number.isInteger(limit) || limit < 0) throw new RangeError("a limit is a whole number from 0");
  return { ...range, limit: Math.min(limit, 1000) };
}

/** What is left of a range after its page. */
export function restOf(range, entries) {
  const last = entries.at(-1)?.keyBytes;
  if (last === undefined) return null;
  if (range.reverse) return { ...range, end: last };
  const next = new Uint8Array(last.length + 1);
  next.set(last);
  return { ...range, start: next };
}

export class Storage {
  #host;

  constructor(host) {
    this.#host = host;
  }

  #ask(call) {
    return ask(StorageError, () => call(this.#host));
  }

  /** The bytes of a key, or null. */
  async get(key) {
    return this.#get(key);
  }

  #get(key) {
    return this.#ask((host) => host.get(toBytes(key))) ?? null;
  }

  /** The same as text. */
  async getText(key) {
    const value = this.#get(key);
    return value === null ? null : toText(value);
  }

  /** The same out of JSON. */
  async getJson(key) {
    const text = await this.getText(key);
    return text === null ? null : JSON.parse(text);
  }

  /** The number that `increment` adds to; 0 if there is none. */
  async getNumber(key) {
    return toNumber(this.#get(key));
  }

  /** Writes text or bytes. Keys have 1 to 2,048 bytes, values at most 16 MiB. */
  async put(key, value) {
    this.#ask((host) => host.put(toBytes(key), toBytes(value)));
  }

  /** Writes a value as JSON. */
  async putJson(key, value) {
    await this.put(key, toJson(value));
  }

  /** No error if there is nothing. */
  async delete(key) {
    this.#ask((host) => host.delete(toBytes(key)));
  }

  /** Adds to a number, and tells the sum. No value counts as 0. */
  async increment(key, by = 1) {
    if (!Number.isSafeInteger(by)) throw new RangeError("a whole number is wanted, that JavaScript counts exactly");
    const name = toBytes(key);
    const sum = this.#ask((host) => host.increment(name, by));
    try {
      return exact(sum);
    } catch (error) {
      // It is as it was: the sum would not be the one that is stored.
      this.#ask((host) => host.increment(name, -by));
      throw error;
    }
  }

  /** Writes `next` (null: deletes) if the value is `expected` (null: there is none); tells whether it was. */
  async compareAndSwap(key, expected, next) {
    const bytes = (data) => (data === null ? null : toBytes(data));
    return this.#ask((host) => host.compareAndSwap(toBytes(key), bytes(expected), bytes(next)));
  }

  /** Entries of a range, a page of them: at most 1,000 and 1 MiB. `next` is the range of the rest, or null. */
  async scan(range) {
    const wanted = toRange(range);
    const page = this.#ask((host) => host.scan(wanted));
    const entries = page.entries.map((entry) => new Entry(entry));
    return { entries, next: page.more ? restOf(wanted, entries) : null };
  }

  /** Every entry of a range, page by page. */
  async *entries(range) {
    let left = range?.limit || Infinity;
    for (let rest = range ?? {}; rest !== null && left > 0; ) {
      const page = await this.scan({ ...rest, limit: Math.min(left, 1000) });
      yield* page.entries;
      left -= page.entries.length;
      rest = page.next;
    }
  }

  /** Deletes every key. Alarms and WebSockets stay. */
  async deleteAll() {
    this.#ask((host) => host.deleteAll());
  }

  /** A commit point: returns when all that was written so far is durable. */
  async sync() {
    this.#ask((host) => host.sync());
  }

  /** Bytes that the object stores, and how many it may. */
  async usage() {
    return this.#ask((host) => host.getUsage());
  }
}
