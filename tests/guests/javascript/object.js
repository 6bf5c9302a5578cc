// What the SDK in JavaScript promises, looked at from within its engine: a class that checks itself. The stories put it into a project
// of the template. Each check is a line of the answer if it fails.

import { DurableObject, StorageError } from "berth-object";

const ofBuild = Math.random();
let early;
try {
  crypto.randomUUID();
} catch (error) {
  early = error.message;
}

export default class Checks extends DurableObject {
  turns = 0;

  async fetch(request) {
    this.turns += 1;
    const { pathname, searchParams } = new URL(request.url);
    switch (pathname) {
      case "/checks/one/check":
        return new Response(await this.all(request));
      case "/checks/one/turns":
        return new Response(this.turns);
      case "/checks/one/throw":
        await this.storage.put("lost", "x");
        throw new RangeError(`as asked: ${searchParams.get("why")}`);
      case "/checks/one/reject":
        Promise.reject(new Error("nobody hears this"));
        return new Response("this does not arrive");
      case "/checks/one/hang":
        return new Promise(() => {});
      case "/checks/one/wrong":
        return "no response";
      case "/checks/one/alarm":
        await this.alarms.set("ring", new Date(), "a payload");
        return new Response(null, { status: 204 });
      case "/checks/one/rang":
        return new Response(await this.storage.getText("rang"));
      default:
        return new Response(null, { status: 404 });
    }
  }

  async alarm(alarm) {
    await this.storage.put("rang", `${alarm.id} ${alarm.text()} ${alarm.attempt} ${alarm.at instanceof Date}`);
  }

  async all(request) {
    const wrong = [];
    const is = (what, found, expected) => {
      const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
      if (a !== b) wrong.push(`${what}: ${a} instead of ${b}\n`);
    };
    is("the request", [request.method, await request.text(), request.headers.get("X-Nothing")], ["POST", "grüße €", null]);
    this.text(is);
    await this.promises(is);
    await this.host(is);
    return wrong.join("") || "good";
  }

  text(is) {
    for (const text of ["", "hello", "ä€😀", "a\ud800b", `${"x".repeat(9000)}ü`, "\0\x7f\x80"]) {
      is("text", new TextDecoder().decode(new TextEncoder().encode(text)), text.toWellFormed());
    }
    is("bytes", [...new TextEncoder().encode("ä€😀")], [195, 164, 226, 130, 172, 240, 159, 152, 128]);
    const broken = new Uint8Array([97, 0xc3, 98, 0xed, 0xa0, 0x80, 0xf0, 0x9f]);
    is("no text", new TextDecoder().decode(broken), "a\ufffdb\ufffd\ufffd\ufffd\ufffd");
    const long = `${"€".repeat(40_000)}x`;
    is("long text", new TextDecoder().decode(new TextEncoder().encode(long)) === long, true);
    is("a part", new TextDecoder().decode(new TextEncoder().encode("xäx").subarray(1, 3)), "ä");
    const pieces = new TextDecoder();
    is("pieces", [[0xe2, 0x82], [0xac]].map((some) => pieces.decode(new Uint8Array(some), { stream: true })).join(""), "€");
    is("URLs", new URL("../c?d=ü#e", "http://H.example:80/a/b/").href, "http://h.example/a/c?d=%C3%BC#e");
    is("clones", structuredClone({ a: [new Date(5), new Map([[1, new Set([2])]])] }).a[1].get(1).has(2), true);
  }

  async promises(is) {
    const order = [];
    queueMicrotask(() => order.push("job"));
    Promise.resolve().then(() => order.push("then"));
    await null;
    order.push("await");
    is("order", order, ["job", "then", "await"]);
    async function* three() {
      for (const number of [1, 2, 3]) yield number;
    }
    is("async generators", await Array.fromAsync(three(), async (number) => number * 2), [2, 4, 6]);
    const before = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 20));
    is("sleep", performance.now() - before >= 20, true);
    is("random", [Math.random() !== ofBuild, Math.random() !== Math.random()], [true, true]);
    is("not at the top", /for turns/.test(early), true);
    is("UUIDs", /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), true);
    is("fetch", await fetch("http://nowhere.example.invalid:1/").catch((error) => [error.name, error.code]), ["TypeError", "failed"]);
    is("no URL", await fetch("nowhere").catch((error) => error.name), "TypeError");
  }

  async host(is) {
    const { storage, alarms, sockets } = this;
    for (const key of ["a/1", "a/2", "a/3"]) await storage.putJson(key, { key });
    is("entries", (await Array.fromAsync(storage.entries({ prefix: "a/", limit: 2 }))).map((entry) => entry.json().key), ["a/1", "a/2"]);
    const page = await storage.scan({ prefix: "a/", reverse: true, limit: 1 });
    is("pages", [page.entries[0].key, (await storage.scan(page.next)).entries[0].key], ["a/3", "a/2"]);
    is("a refusal", await storage.put("", "x").catch((error) => [error instanceof StorageError, error.code]), [true, "key-length"]);
    await storage.put("most", "9007199254740990");
    is("numbers", [await storage.increment("n", -7), await storage.increment("n")], [-7, -6]);
    is("beyond", await storage.increment("most", 5).catch((error) => error.code), "overflow");
    is("as it was", await storage.getText("most"), "9007199254740990");
    is("swaps", [await storage.compareAndSwap("s", null, "1"), await storage.compareAndSwap("s", "2", null)], [true, false]);
    await storage.put("part", new Uint8Array([1, 2, 3, 4]).subarray(1, 3));
    is("a part of bytes", [...(await storage.get("part"))], [2, 3]);
    await storage.sync();
    await alarms.setIn("later", 1e15, new Uint8Array([255]));
    is("alarms", (await alarms.getAll()).map((alarm) => [alarm.id, alarm.at.getUTCFullYear(), [...alarm.payload]]), [["later", 9999, [255]]]);
    is("no alarm", await alarms.set("", 0).catch((error) => error.code), "id-length");
    await alarms.clear("later");
    is("sockets", [await sockets.all(), await sockets.tagged("room")], [[], []]);
    is("identity", [this.identity.name, this.identity.id.length, this.queueLength], ["one", 32, 0]);
    is("variables", [await this.config("GREETING"), await this.config("NOTHING")], ["ahoy", null]);
    is("room", (await storage.usage()).most > 0, true);
    console.log("a line of", { these: [1, "two", new Map([[3, 4]])] });
  }
}
