import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";
import { eventsOf } from "../src/events.js";
import { DurableObject } from "../src/object.js";
import { makeFetch } from "../src/outgoing.js";
import { Storage } from "../src/storage.js";
import { runTurn } from "../src/turn.js";
import * as jobs from "../src/web/jobs.js";
import { Response as Res } from "../src/web/fetch.js";
import { makeHost } from "./host.js";

/** Turns with node's own promises: it has no way to run the SDK's, as the build makes none of these files. */
const run = async (turn) => await turn();
const bytes = (text) => new TextEncoder().encode(text);
const ask = (method, url = "http://h/a", body = "") => ({ method, url, headers: [["x-a", bytes("1")]], body: bytes(body) });

/** The answer's status and text. */
const read = async (answer) => {
  const { tag, val } = await answer;
  assert.equal(tag, "response");
  return [val.status, new TextDecoder().decode(val.body)];
};

test("the counter of the README counts", async () => {
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const source = /```js\n([^]*?)```/.exec(readme)[1];
  assert.ok(source.trim().split("\n").length <= 10, "ten lines");
  const object = new URL("../src/object.js", import.meta.url).href;
  globalThis.Response = Res;
  const { default: Counter } = await import(`data:text/javascript,${encodeURIComponent(source.replace("berth-object", object))}`);
  const events = eventsOf(Counter, makeHost(), run);
  assert.deepEqual(await read(events.handle(ask("GET"))), [200, "0"]);
  assert.deepEqual(await read(events.handle(ask("POST"))), [200, "1"]);
  assert.deepEqual(await read(events.handle(ask("POST"))), [200, "2"]);
  assert.deepEqual(await read(events.handle(ask("GET"))), [200, "2"]);
});

test("events reach their methods with what they carry", async () => {
  const seen = [];
  class All extends DurableObject {
    turns = 0;
    async fetch(request) {
      this.turns += 1;
      if (request.socket) return request.socket.accept({ tags: ["room"], attachment: "ada", protocol: "chat" });
      const { name, epoch } = this.identity;
      const said = [request.headers.get("x-a"), await request.text(), this.turns, name, epoch, this.queueLength, this.cpuUsed];
      return new Res([...said, await this.config("GREETING"), await this.config("NOTHING")].join());
    }
    async alarm(alarm) {
      seen.push([alarm.id, alarm.at.getTime(), alarm.attempt, alarm.text()]);
    }
    async message(socket, data) {
      seen.push([socket.number, data]);
      await socket.send(data);
      await this.sockets.broadcast("room", "all", { but: socket });
    }
    async closed(socket, code, reason) {
      seen.push([socket.number, code, reason]);
    }
    async upgrade(from) {
      seen.push(["from", from]);
    }
  }
  const host = makeHost();
  const events = eventsOf(All, host, run);
  assert.deepEqual(await read(events.handle(ask("PUT", "http://h/", "body"), undefined)), [200, "1,body,1,,3,4,2,ahoy,"]);
  const accept = { tags: ["room"], attachment: bytes("ada"), protocol: "chat" };
  const answer = await events.handle(ask("GET"), 7);
  assert.deepEqual(answer, { tag: "accept", val: { ...accept, attachment: answer.val.attachment } });
  assert.deepEqual([...answer.val.attachment], [...accept.attachment]);
  await events.alarm({ id: "tick", dueMs: 5, attempt: 2, payload: bytes("p") });
  await events.message(7, { tag: "text", val: "hello" });
  await events.closed(7, 1006, "gone");
  await events.upgrade(1);
  assert.deepEqual(seen, [["tick", 5, 2, "p"], [7, "hello"], [7, 1006, "gone"], ["from", 1]]);
  assert.deepEqual(host.sent, [[7, { tag: "text", val: "hello" }], ["room", { tag: "text", val: "all" }, 7]]);
  await assert.rejects(events.message(2 ** 60, { tag: "text", val: "x" }), RangeError);
  await assert.rejects(events.reply(1, {}), /nothing was sent/);
});

test("what a class does not have is said, or passes", async () => {
  class Bare extends DurableObject {}
  const events = eventsOf(Bare, makeHost(), run);
  await assert.rejects(events.handle(ask("GET")), /no method `fetch`/);
  await assert.rejects(events.alarm({ id: "tick", dueMs: 0, attempt: 1, payload: bytes("") }), /"tick"/);
  await assert.rejects(events.upgrade(3), /version 3/);
  await events.message(1, { tag: "binary", val: bytes("x") });
  await events.closed(1, 1000, "");
  class Wrong extends DurableObject {
    async fetch() {
      return { status: 200 };
    }
  }
  await assert.rejects(eventsOf(Wrong, makeHost(), run).handle(ask("GET")), /returned \{status: 200\} instead of a Response/);
  for (const none of [undefined, {}, class {}, () => {}]) assert.throws(() => eventsOf(none, makeHost()), TypeError);
});

test("a turn ends with all jobs, and fails by name", () => {
  const host = makeHost();
  const { Promise, setTimeout } = jobs;
  const fails = (turn) => {
    try {
      return `no error, but ${runTurn(turn, host)}`;
    } catch (error) {
      return error;
    }
  };
  const ran = [];
  assert.equal(runTurn(() => Promise.resolve(1).then((value) => (Promise.resolve().then(() => ran.push("last")), value + 1)), host), 2);
  assert.deepEqual(ran, ["last"]);
  assert.equal(runTurn(() => new Promise((resolve) => setTimeout(resolve, 2, "slept")), host), "slept");
  assert.equal(fails(() => Promise.reject(new RangeError("as asked"))), "RangeError: as asked");
  assert.match(host.log[0], /^RangeError: as asked\n +at /, "with its stack");
  assert.equal(fails(() => Promise.reject("text")), "text");
  assert.match(fails(() => new Promise(() => {})), /nothing is left to settle/);
  assert.match(fails(() => void Promise.reject(new Error("lost"))), /nobody listened/);
  assert.match(host.log.at(-1), /caused by Error: lost/);
  assert.equal(fails(() => { throw new Error("half \ud800"); }), "Error: half \ufffd");
  setTimeout(() => ran.push("never"), 0);
  runTurn(() => 1, host);
  runTurn(() => new Promise((resolve) => setTimeout(resolve, 1)), host);
  assert.deepEqual(ran, ["last"], "timers end with their turn");
});

test("storage reads back what was written, and refusals have a code", async () => {
  const host = makeHost();
  const storage = new Storage(host.storage);
  await storage.put("a/1", "eins");
  await storage.put(bytes("a/2"), new Uint16Array([1, 2]));
  await storage.putJson("a/3", { three: 3 });
  await storage.put("b", new Uint8Array([255]));
  assert.deepEqual([await storage.getText("a/1"), await storage.get("a/9"), await storage.getText("a/9")], ["eins", null, null]);
  assert.deepEqual([...(await storage.get("a/2"))], [1, 0, 2, 0]);
  assert.deepEqual([await storage.getJson("a/3"), await storage.getJson("a/9")], [{ three: 3 }, null]);
  await assert.rejects(storage.getText("b"), TypeError);
  await assert.rejects(storage.getNumber("a/1"), { code: "not-a-number" });
  assert.deepEqual([await storage.increment("n"), await storage.increment("n", -5), await storage.getNumber("n")], [1, -4, -4]);
  await assert.rejects(storage.increment("n", 0.5), RangeError);
  await storage.put("n", "9007199254740990");
  await assert.rejects(storage.increment("n", 5), { code: "overflow" });
  assert.equal(await storage.getText("n"), "9007199254740990", "as it was");
  assert.deepEqual([await storage.compareAndSwap("n", "1", null), await storage.compareAndSwap("n", "9007199254740990", null)], [false, true]);
  await assert.rejects(storage.put("", "x"), { name: "StorageError", code: "key-length" });
  await assert.rejects(storage.sync(), { code: "unavailable", message: /the disk is gone/ });
  await assert.rejects(storage.put("x", 5), TypeError);
  await assert.rejects(storage.putJson("x", undefined), TypeError);
});

test("scans go on where they were", async () => {
  const host = makeHost();
  const storage = new Storage(host.storage);
  for (const key of ["a", "a/1", "a/2", "a/3", "a/4", "a/5", "b"]) await storage.put(key, key);
  const all = async (range) => {
    const keys = [];
    for await (const entry of storage.entries(range)) keys.push(entry.key);
    return keys.join(" ");
  };
  assert.equal(await all({ prefix: "a/" }), "a/1 a/2 a/3 a/4 a/5");
  assert.equal(await all({ prefix: "a/", reverse: true }), "a/5 a/4 a/3 a/2 a/1");
  assert.equal(await all({ prefix: "a/", limit: 3 }), "a/1 a/2 a/3");
  assert.equal(await all({ start: "a/4" }), "a/4 a/5 b");
  assert.equal(await all({ start: "a/2", end: "a/4" }), "a/2 a/3");
  assert.equal(await all(), "a a/1 a/2 a/3 a/4 a/5 b");
  const page = await storage.scan({ prefix: "a/", limit: 2 });
  assert.deepEqual([page.entries.map((entry) => entry.text()), page.next.start.at(-1)], [["a/1", "a/2"], 0]);
  const rest = await storage.scan(page.next);
  assert.deepEqual(rest.entries.map((entry) => entry.key), ["a/3", "a/4"]);
  await assert.rejects(storage.scan({ limit: -1 }), RangeError);
});

test("requests to others are whole, and fail as in the standard", async () => {
  const asked = [];
  const host = makeHost();
  host.outgoing = {
    fetch(request, timeout) {
      asked.push([request.method, request.url, request.headers, new TextDecoder().decode(request.body), timeout]);
      const tag = /refuse=(.*)$/.exec(request.url)?.[1];
      if (tag) throw Object.assign(new Error("refused"), { payload: { tag, val: tag === "failed" ? "why" : undefined } });
      return { status: 404, headers: [["a", bytes("1")]], body: bytes("body") };
    },
  };
  const fetch = makeFetch(host);
  await assert.rejects(fetch("http://h/"), /for turns/, "not while modules are loaded");
  // A turn that is never over, as far as the SDK knows: node's promises go on behind it.
  const within = (call) => {
    let made;
    runTurn(() => (made = call()) && undefined, host);
    return made;
  };
  const response = await within(() => fetch("http://H/x", { method: "POST", body: "{}", headers: { B: "2" } }));
  assert.deepEqual([response.status, response.headers.get("a"), response.url, await response.text()], [404, "1", "http://h/x", "body"]);
  assert.deepEqual(asked[0].slice(0, 2), ["POST", "http://h/x"]);
  assert.deepEqual(asked[0].slice(3), ["{}", null]);
  await assert.rejects(within(() => fetch("http://h/?refuse=failed")), { name: "TypeError", code: "failed", message: /why/ });
  await assert.rejects(within(() => fetch("http://h/?refuse=timeout")), { name: "TimeoutError" });
  await assert.rejects(within(() => fetch("nowhere")), TypeError);
});
