// From the host's calls to the methods of a class, and back.

import { Alarm } from "./alarms.js";
import { DurableObject, provide } from "./object.js";
import { Socket } from "./sockets.js";
import { runTurn } from "./turn.js";
import { show } from "./web/console.js";
import { Request, Response } from "./web/fetch.js";

function toAnswer(response) {
  if (!(response instanceof Response)) throw new TypeError(`fetch returned ${show(response)} instead of a Response`);
  return Response.toHost(response);
}

/** The export `berth:object/events` of a class, on this host. The instance is made in its first turn; `run` runs each. */
export function eventsOf(Class, host, run = runTurn) {
  if (typeof Class !== "function" || !(Class.prototype instanceof DurableObject)) {
    throw new TypeError("the module's default export is no class that extends DurableObject");
  }
  provide(host);
  let object;
  const socketOf = (number) => new Socket(number, host.sockets);
  const turn =
    (answer) =>
    (...values) =>
      run(() => {
        object ??= new Class();
        return answer(object, ...values);
      }, host);
  return {
    handle: turn((object, message, upgrade) => {
      const socket = typeof upgrade === "number" ? socketOf(upgrade) : null;
      return Promise.resolve(object.fetch(Request.ofHost(message, socket))).then(toAnswer);
    }),
    alarm: turn((object, { id, dueMs, attempt, payload }) => object.alarm(new Alarm({ id, atMs: dueMs, payload, attempt }))),
    message: turn((object, number, { val }) => object.message(socketOf(number), val)),
    closed: turn((object, number, code, reason) => object.closed(socketOf(number), code, reason)),
    reply: turn(() => {
      throw new Error("a reply came, and nothing was sent");
    }),
    upgrade: turn((object, fromVersion) => object.upgrade(fromVersion)),
  };
}
