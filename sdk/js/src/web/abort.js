// AbortController and AbortSignal. A request of `fetch` waits in place, so that a signal of `AbortSignal.timeout` is the only one
// that can end it.

const MAKE = Symbol("make");

export class AbortSignal {
  #reason = undefined;
  #aborted = false;
  #listeners = new Set();
  #deadline = undefined;
  onabort = null;

  constructor(key) {
    if (key !== MAKE) throw new TypeError("signals are made by AbortController, AbortSignal.abort, any and timeout");
  }

  static abort(reason) {
    const signal = new AbortSignal(MAKE);
    AbortSignal.end(signal, reason);
    return signal;
  }

  static timeout(ms) {
    if (!(ms >= 0)) throw new TypeError("a time is a number of milliseconds");
    const signal = new AbortSignal(MAKE);
    signal.#deadline = Date.now() + ms;
    return signal;
  }

  /** Ends with the first of them, and with the earliest of their times. */
  static any(signals) {
    const signal = new AbortSignal(MAKE);
    for (const other of signals) {
      if (other.aborted) AbortSignal.end(signal, other.reason);
      else other.addEventListener("abort", () => AbortSignal.end(signal, other.reason));
      if (other.#deadline < (signal.#deadline ?? Infinity)) signal.#deadline = other.#deadline;
    }
    return signal;
  }

  static end(signal, reason = new DOMException("it was aborted", "AbortError")) {
    if (signal.#aborted) return;
    [signal.#aborted, signal.#reason] = [true, reason];
    const event = { type: "abort", target: signal };
    signal.onabort?.(event);
    for (const listener of signal.#listeners) (listener.handleEvent ?? listener).call(signal, event);
    signal.#listeners.clear();
  }

  /** Milliseconds that are left; nothing if there is no end. */
  static left(signal) {
    return signal.#deadline === undefined ? undefined : Math.max(signal.#deadline - Date.now(), 0);
  }

  static make() {
    return new AbortSignal(MAKE);
  }

  get aborted() {
    if (this.#deadline <= Date.now()) AbortSignal.end(this, new DOMException("the time is over", "TimeoutError"));
    return this.#aborted;
  }

  get reason() {
    return this.aborted ? this.#reason : undefined;
  }

  throwIfAborted() {
    if (this.aborted) throw this.#reason;
  }

  addEventListener(type, listener) {
    if (type === "abort" && listener) this.#listeners.add(listener);
  }

  removeEventListener(type, listener) {
    if (type === "abort") this.#listeners.delete(listener);
  }
}

export class AbortController {
  signal = AbortSignal.make();

  abort(reason) {
    AbortSignal.end(this.signal, reason);
  }
}
