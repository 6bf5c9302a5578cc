// Promises and timers whose jobs a turn runs itself. The engine runs none while it answers a call of the host, and has no
// way to be asked to: so promises are ours, and the build makes every `async` function one of generators over them.

const PENDING = 0;
const FULFILLED = 1;
const REJECTED = 2;

/** Functions without arguments. */
let jobs = [];

/** Runs `job` when the code that runs now has returned. */
export function queueMicrotask(job) {
  if (typeof job !== "function") throw new TypeError("queueMicrotask wants a function");
  jobs.push(job);
}

/** Runs what is queued, and what that queues, until nothing is left. What one throws comes out of here. */
export function runJobs() {
  while (jobs.length > 0) {
    const batch = jobs;
    jobs = [];
    for (let at = 0; at < batch.length; at++) batch[at]();
  }
}

/** Promises that were rejected while nobody listened. */
const unheard = new Set();

/** What such a promise was rejected with, as a list of none or one; they are forgotten. */
export function takeUnheard() {
  if (unheard.size === 0) return [];
  const [first] = unheard;
  unheard.clear();
  return [Promise.reasonOf(first)];
}

/** In place of an executor: whoever makes the promise settles it. */
const BARE = Symbol("bare");

/** As in ECMAScript, but for subclasses: what `then` makes is a plain one. */
export class Promise {
  #state = PENDING;
  #value = undefined;
  /** Who listens: each is called with the state and the value, as a job. */
  #reactions = undefined;

  constructor(executor) {
    if (executor === BARE) return;
    if (typeof executor !== "function") throw new TypeError("a Promise wants a function");
    this.#follow((resolve, reject) => executor(resolve, reject));
  }

  /** Calls something with two functions, of which the first call counts; what it throws rejects. */
  #follow(call) {
    let done = false;
    const reject = (reason) => {
      if (!done) {
        done = true;
        this.#settle(REJECTED, reason);
      }
    };
    const resolve = (value) => {
      if (!done) {
        done = true;
        this.#resolve(value);
      }
    };
    try {
      call(resolve, reject);
    } catch (error) {
      reject(error);
    }
  }

  #resolve(value) {
    if (value === null || (typeof value !== "object" && typeof value !== "function")) {
      return this.#settle(FULFILLED, value);
    }
    if (value === this) return this.#settle(REJECTED, new TypeError("a promise cannot be resolved with itself"));
    let then;
    try {
      then = value.then;
    } catch (error) {
      return this.#settle(REJECTED, error);
    }
    if (typeof then !== "function") return this.#settle(FULFILLED, value);
    jobs.push(() => this.#follow((resolve, reject) => then.call(value, resolve, reject)));
  }

  #settle(state, value) {
    const reactions = this.#reactions;
    this.#state = state;
    this.#value = value;
    this.#reactions = undefined;
    if (reactions === undefined) {
      if (state === REJECTED) unheard.add(this);
      return;
    }
    for (const reaction of reactions) jobs.push(() => reaction(state, value));
  }

  /** What one was rejected with. */
  static reasonOf(promise) {
    return promise.#value;
  }

  then(onFulfilled, onRejected) {
    const next = new Promise(BARE);
    const reaction = (state, value) => {
      const handler = state === FULFILLED ? onFulfilled : onRejected;
      if (typeof handler !== "function") return state === FULFILLED ? next.#resolve(value) : next.#settle(REJECTED, value);
      let result;
      try {
        result = handler(value);
      } catch (error) {
        return next.#settle(REJECTED, error);
      }
      next.#resolve(result);
    };
    if (this.#state === PENDING) (this.#reactions ??= []).push(reaction);
    else {
      if (this.#state === REJECTED) unheard.delete(this);
      const [state, value] = [this.#state, this.#value];
      jobs.push(() => reaction(state, value));
    }
    return next;
  }

  catch(onRejected) {
    return this.then(undefined, onRejected);
  }

  finally(last) {
    if (typeof last !== "function") return this.then(last, last);
    return this.then(
      (value) => Promise.resolve(last()).then(() => value),
      (reason) =>
        Promise.resolve(last()).then(() => {
          throw reason;
        }),
    );
  }

  get [Symbol.toStringTag]() {
    return "Promise";
  }

  static resolve(value) {
    if (value instanceof Promise) return value;
    const promise = new Promise(BARE);
    promise.#resolve(value);
    return promise;
  }

  static reject(reason) {
    return new Promise((_, reject) => reject(reason));
  }

  static withResolvers() {
    const made = {};
    made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
    return made;
  }

  static try(call, ...values) {
    return new Promise((resolve) => resolve(call(...values)));
  }

  static race(promises) {
    return new Promise((resolve, reject) => {
      for (const promise of promises) Promise.resolve(promise).then(resolve, reject);
    });
  }

  static all(promises) {
    return Promise.#gather(promises, (each, keep, _resolve, reject) => each.then(keep, reject));
  }

  static allSettled(promises) {
    return Promise.#gather(promises, (each, keep) =>
      each.then(
        (value) => keep({ status: "fulfilled", value }),
        (reason) => keep({ status: "rejected", reason }),
      ),
    );
  }

  static any(promises) {
    const none = (reasons) => {
      throw new AggregateError(reasons, "every promise was rejected");
    };
    return Promise.#gather(promises, (each, keep, resolve) => each.then(resolve, keep), none);
  }

  /** Listens to each; when all of them have kept something, those things are the value, or `last` throws. */
  static #gather(promises, listen, last = (kept) => kept) {
    return new Promise((resolve, reject) => {
      const kept = [];
      let missing = 1;
      const conclude = () => {
        missing -= 1;
        if (missing > 0) return;
        try {
          resolve(last(kept));
        } catch (error) {
          reject(error);
        }
      };
      let count = 0;
      for (const promise of promises) {
        const index = count++;
        missing += 1;
        const keep = (value) => {
          kept[index] = value;
          conclude();
        };
        listen(Promise.resolve(promise), keep, resolve, reject);
      }
      conclude();
    });
  }
}

const timers = new Map();
let lastTimer = 0;

function start(callback, delay, values, every) {
  if (typeof callback !== "function") throw new TypeError("a timer wants a function");
  const wait = Math.min(Math.max(Number(delay) || 0, 0), 2 ** 31 - 1);
  lastTimer += 1;
  timers.set(lastTimer, { at: Date.now() + wait, wait, every, run: () => callback(...values) });
  return lastTimer;
}

/** The turn waits for it in place, if its answer does: nothing else happens in the object meanwhile. */
export const setTimeout = (callback, delay, ...values) => start(callback, delay, values, false);
export const setInterval = (callback, delay, ...values) => start(callback, delay, values, true);
export const clearTimeout = (id) => void timers.delete(id);
export const clearInterval = clearTimeout;

/** Forgets all timers: they do not outlive the turn that set them. */
export const dropTimers = () => timers.clear();

/** Waits with `sleep` for the timer that is due first, and runs it. Whether there was one. */
export function runNextTimer(sleep) {
  let first;
  for (const [id, timer] of timers) {
    if (first === undefined || timer.at < first[1].at) first = [id, timer];
  }
  if (first === undefined) return false;
  const [id, timer] = first;
  const wait = timer.at - Date.now();
  if (wait > 0) sleep(wait);
  if (timer.every) timer.at = Math.max(timer.at, Date.now()) + Math.max(timer.wait, 1);
  else timers.delete(id);
  timer.run();
  return true;
}
