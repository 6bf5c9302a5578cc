// What a class extends. Its methods are the events of the WIT, and these are for classes that do not have what would cause them.

import { Alarms } from "./alarms.js";
import { Sockets } from "./sockets.js";
import { Storage } from "./storage.js";

/** The host of the component: set before the first instance is made. */
let host;

export const provide = (given) => {
  host = given;
};

export class DurableObject {
  /** The object's own data. */
  storage = new Storage(host.storage);
  /** Messages of the object to itself, later. */
  alarms = new Alarms(host.alarms);
  /** The object's WebSockets. */
  sockets = new Sockets(host.sockets);

  /** Who the object is: `id`, `name`, `class`, `zone`, `epoch`, `schemaVersion`. */
  get identity() {
    const { name, ...identity } = host.identity.getIdentity();
    return { ...identity, name: name ?? null };
  }

  /** A variable or a secret of the project by its name, or null. */
  async config(name) {
    return host.config(String(name).toWellFormed());
  }

  /** How many messages wait for the object. */
  get queueLength() {
    return host.identity.queueLength();
  }

  /** Milliseconds on its core that this turn has taken. */
  get cpuUsed() {
    return host.identity.cpuUsedUs() / 1000;
  }

  /** A request. The answer is a Response; that of `request.socket.accept()` takes the WebSocket that was asked for. */
  async fetch(_request) {
    throw new Error("a request came, and the class has no method `fetch`");
  }

  /** An alarm is due. It comes at least once, and is cleared with the end of the turn unless the turn sets it anew. */
  async alarm(alarm) {
    throw new Error(`the alarm ${JSON.stringify(alarm.id)} is due, and the class has no method \`alarm\``);
  }

  /** A message came on a WebSocket, text or bytes. */
  async message(_socket, _data) {}

  /** A WebSocket has closed; without a close of the client, the code is 1006. */
  async closed(_socket, _code, _reason) {}

  /** What is stored is of another version of the schema, maybe a higher one. Runs before any other turn. */
  async upgrade(fromVersion) {
    throw new Error(`version ${fromVersion} is stored, and the class has no method \`upgrade\``);
  }
}
