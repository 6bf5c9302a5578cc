// An inbox for each name: POST puts a message into it, GET reads the latest ones as JSON, DELETE empties it. It keeps a hundred,
// and forgets them all a day after the last one came.

import { DurableObject } from "berth-object";

const MOST = 100;
const TEXT_MOST = 4096;
const KEPT_MS = 24 * 3600 * 1000;

/** So that the order of keys is that of numbers. */
const keyOf = (number) => `message/${String(number).padStart(16, "0")}`;

export default class Inbox extends DurableObject {
  async fetch(request) {
    switch (request.method) {
      case "POST":
        return this.take(await request.text(), request.headers.get("x-from"));
      case "GET":
        return this.show(new URL(request.url).searchParams);
      case "DELETE":
        await this.alarm();
        return new Response(null, { status: 204 });
      default:
        return Response.json({ error: "POST, GET or DELETE" }, { status: 405, headers: { allow: "GET, POST, DELETE" } });
    }
  }

  async take(text, from) {
    if (text === "" || text.length > TEXT_MOST) {
      return Response.json({ error: `a message has 1 to ${TEXT_MOST} characters` }, { status: 400 });
    }
    const number = await this.storage.increment("last");
    await this.storage.putJson(keyOf(number), { number, at: new Date(), from, text });
    await this.storage.delete(keyOf(Math.max(number - MOST, 0)));
    await this.alarms.setIn("forget", KEPT_MS);
    return Response.json({ number }, { status: 201 });
  }

  async show(wanted) {
    const limit = Number(wanted.get("limit") ?? 10);
    if (!Number.isInteger(limit) || limit < 1 || limit > MOST) {
      return Response.json({ error: `limit is a number from 1 to ${MOST}` }, { status: 400 });
    }
    const { entries } = await this.storage.scan({ prefix: "message/", reverse: true, limit });
    return Response.json({ inbox: this.identity.name, messages: entries.map((entry) => entry.json()) });
  }

  async alarm() {
    await this.storage.deleteAll();
    await this.alarms.clear("forget");
  }
}
