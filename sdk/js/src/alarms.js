// Messages of the object to itself, later. They are durable with the turn's writes.

import { AlarmError, ask } from "./errors.js";
import { toBytes, toText } from "./storage.js";

/** The last moment that is told: the year 9999. */
const MOST_MS = 253_402_300_799_999;

/** A date, or milliseconds of Unix time. */
function toMs(at) {
  const ms = Number(at);
  if (Number.isNaN(ms)) throw new TypeError("a time is a Date, or milliseconds of Unix time");
  return Math.min(Math.max(Math.trunc(ms), 0), MOST_MS);
}

/** An alarm that is set, or that is due. */
export class Alarm {
  constructor({ id, atMs, payload, attempt }) {
    this.id = id;
    /** When it is due, or should have been. */
    this.at = new Date(Math.min(atMs, MOST_MS));
    /** The bytes that were set with it. */
    this.payload = payload;
    /** Of one that is due: 1 for the first; one whose turn fails comes again. */
    this.attempt = attempt;
  }

  text() {
    return toText(this.payload);
  }

  json() {
    return JSON.parse(this.text());
  }
}

export class Alarms {
  #host;

  constructor(host) {
    this.#host = host;
  }

  /** Sets an alarm, with text or bytes that come with it; one of the same id is replaced. */
  async set(id, at, payload = "") {
    const alarm = { id: String(id).toWellFormed(), atMs: toMs(at), payload: toBytes(payload) };
    ask(AlarmError, () => this.#host.set(alarm));
  }

  /** Sets an alarm that is due after so many milliseconds. */
  async setIn(id, ms, payload = "") {
    await this.set(id, Date.now() + Number(ms), payload);
  }

  /** No error if there is none. */
  async clear(id) {
    ask(AlarmError, () => this.#host.clear(String(id).toWellFormed()));
  }

  /** All that are set, by id. */
  async getAll() {
    return ask(AlarmError, () => this.#host.getAll()).map((alarm) => new Alarm(alarm));
  }
}
