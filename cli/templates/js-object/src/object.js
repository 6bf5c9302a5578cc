// A class of objects, each a counter with a name. GET reads it, POST adds one, DELETE begins anew; an hour after the last
// POST it does so by itself.

import { DurableObject } from "berth-object";

const IDLE_MAX = 3600 * 1000;

// An instance ends when the node wants its room: what must last belongs into storage, not into fields.
export default class Counter extends DurableObject {
  // A request: a turn, alone in its object. The answer leaves when what was written is durable.
  async fetch(request) {
    switch (request.method) {
      case "GET":
        return new Response(await this.storage.getNumber("count"));
      case "POST":
        await this.alarms.setIn("reset", IDLE_MAX);
        return new Response(await this.storage.increment("count"));
      case "DELETE":
        await this.storage.deleteAll();
        await this.alarms.clear("reset");
        return new Response(null, { status: 204 });
      default:
        return new Response(null, { status: 405, headers: { allow: "GET, POST, DELETE" } });
    }
  }

  // An alarm that `fetch` set. It comes at least once, also after a restart of the node.
  async alarm() {
    await this.storage.deleteAll();
  }
}
