import assert from "node:assert/strict";
import test from "node:test";
import { AbortController as Controller, AbortSignal as Signal } from "../src/web/abort.js";
import { structuredClone as clone } from "../src/web/clone.js";
import { makeConsole } from "../src/web/console.js";
import { makeCrypto, makeRandom } from "../src/web/crypto.js";
import { TextDecoder as Decoder, TextEncoder as Encoder } from "../src/web/encoding.js";
import { Request as Req, Response as Res } from "../src/web/fetch.js";
import { Headers as Head } from "../src/web/headers.js";

test("text becomes the bytes that node makes of it, and again text", () => {
  for (const text of ["", "hello", "ä€😀\0\x7f\x80", "a\ud800b\udc00", "\ufeffx", "x".repeat(9000) + "ü"]) {
    const bytes = new TextEncoder().encode(text);
    assert.deepEqual([...new Encoder().encode(text)], [...bytes]);
    assert.equal(new Decoder().decode(bytes), new TextDecoder().decode(bytes));
    assert.equal(new Decoder("utf-8", { ignoreBOM: true }).decode(bytes), new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
  }
  const few = new Uint8Array(4);
  assert.deepEqual(new Encoder().encodeInto("a€€", few), { read: 2, written: 4 });
});

test("bytes that are no text become what node makes of them", () => {
  const bytes = [0x41, 0x80, 0xbf, 0xc2, 0xe0, 0x9f, 0xa0, 0xed, 0xf0, 0x90, 0xf4, 0x8f, 0xf5, 0xff, 0xe2, 0x82, 0xac];
  let seed = 1;
  for (let round = 0; round < 3000; round++) {
    const some = Uint8Array.from({ length: 1 + (round % 7) }, () => {
      seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
      return bytes[(seed >> 8) % bytes.length];
    });
    assert.equal(new Decoder().decode(some), new TextDecoder().decode(some), `${[...some]}`);
    const fatal = (Kind) => {
      try {
        return new Kind("utf8", { fatal: true }).decode(some);
      } catch (error) {
        return error.name;
      }
    };
    assert.equal(fatal(Decoder), fatal(TextDecoder), `${[...some]}`);
    const [ours, theirs] = [new Decoder(), new TextDecoder()].map((decoder) =>
      [some.subarray(0, 2), some.subarray(2)].map((piece) => decoder.decode(piece, { stream: true })).join("") + decoder.decode(),
    );
    assert.equal(ours, theirs, `in pieces: ${[...some]}`);
  }
  assert.throws(() => new Decoder("latin1"), RangeError);
});

test("what is long is the same in pieces", () => {
  const long = ["x", "ä", "€", "😀", "\ud800"].map((character, at) => `${"y".repeat(at)}${character.repeat(70_000)}`);
  for (const text of long) {
    const bytes = new TextEncoder().encode(text);
    assert.ok(Buffer.from(new Encoder().encode(text)).equals(Buffer.from(bytes)));
    assert.equal(new Decoder().decode(bytes), text.toWellFormed());
  }
  for (const byte of [0x80, 0xc3, 0xe2, 0xf0]) {
    const broken = new Uint8Array(100_000).fill(byte);
    broken.fill(0xbf, 32_760, 32_775);
    assert.equal(new Decoder().decode(broken), new TextDecoder().decode(broken));
  }
});

test("headers are those of the standard", () => {
  for (const Kind of [Headers, Head]) {
    const headers = new Kind([["B", " 2 "], ["a", "1"], ["b", "3"], ["Set-Cookie", "x=1"], ["set-cookie", "y=2"]]);
    assert.deepEqual([...headers], [["a", "1"], ["b", "2, 3"], ["set-cookie", "x=1"], ["set-cookie", "y=2"]]);
    assert.deepEqual([headers.get("B"), headers.get("c"), headers.has("A")], ["2, 3", null, true]);
    headers.set("b", "4");
    headers.delete("a");
    assert.deepEqual(new Kind(headers).get("b"), "4");
    assert.deepEqual(headers.getSetCookie(), ["x=1", "y=2"]);
    for (const [name, value] of [["a b", "x"], ["", "x"], ["a", "x\ny"], ["a", "€"]]) {
      assert.throws(() => headers.append(name, value), TypeError, `${name}: ${value}`);
    }
  }
  const host = Head.toHost(new Head({ X: "ü" }));
  assert.deepEqual(host, [["x", new Uint8Array([0xfc])]]);
  assert.equal(Head.ofHost(host).get("x"), "ü");
});

test("requests and responses are those of the standard, with whole bodies", async () => {
  for (const [Q, R] of [[Request, Response], [Req, Res]]) {
    const request = new Q("http://h/a", { method: "post", body: "text", headers: { a: "1" } });
    assert.deepEqual([request.method, request.url, request.headers.get("content-type")], ["POST", "http://h/a", "text/plain;charset=UTF-8"]);
    assert.equal(await request.clone().text(), "text");
    assert.equal(await request.text(), "text");
    await assert.rejects(request.text(), TypeError);
    assert.throws(() => new Q("/a"), TypeError);
    assert.throws(() => new Q("http://h/", { body: "x" }), TypeError);
    assert.throws(() => new Q("http://h/", { method: "CONNECT" }), TypeError);
    const response = R.json({ a: [1] }, { status: 201 });
    assert.deepEqual([response.status, response.ok, response.headers.get("content-type")], [201, true, "application/json"]);
    assert.deepEqual(await response.json(), { a: [1] });
    assert.deepEqual([...new Uint8Array(await new R(new Uint8Array([1, 2])).arrayBuffer())], [1, 2]);
    assert.equal(R.redirect("http://h/b", 303).headers.get("location"), "http://h/b");
    assert.throws(() => new R("x", { status: 204 }), TypeError);
    assert.throws(() => new R("x", { status: 99 }), RangeError);
    assert.equal(await new R(5).text(), "5");
  }
  assert.throws(() => new Res(new ReadableStream()), TypeError);
  assert.equal(await new Res(new Res("again").body).text(), "again");
});

test("signals end by hand, by others and by time", () => {
  const controller = new Controller();
  const any = Signal.any([controller.signal, Signal.timeout(1e6)]);
  const heard = [];
  any.addEventListener("abort", (event) => heard.push(event.type));
  controller.abort("why");
  assert.deepEqual([any.aborted, any.reason, heard], [true, "why", ["abort"]]);
  assert.equal(Signal.left(controller.signal), undefined);
  const over = Signal.timeout(0);
  assert.throws(() => over.throwIfAborted(), { name: "TimeoutError" });
  assert.equal(Signal.abort().reason.name, "AbortError");
  assert.ok(Signal.left(Signal.timeout(1e6)) > 9e5);
});

test("clones are deep, and of data alone", () => {
  const value = { list: [1, , "x", null], date: new Date(5), map: new Map([[{ a: 1 }, new Set([2])]]), bytes: new Uint8Array([1, 2]).subarray(1) };
  value.self = value;
  value.error = new RangeError("no", { cause: 7 });
  value.pattern = /a/gi;
  const copy = clone(value);
  assert.deepEqual(copy, structuredClone(value));
  assert.ok(copy.self === copy && copy.map !== value.map && copy.error instanceof RangeError && copy.error.cause === 7);
  for (const wrong of [() => {}, Symbol("s"), { deep: [() => {}] }, Promise.resolve(), new WeakMap()]) {
    assert.throws(() => clone(wrong), { name: "DataCloneError" });
    assert.throws(() => structuredClone(wrong), { name: "DataCloneError" });
  }
});

test("the console says what things are", () => {
  const lines = [];
  const console = makeConsole((line) => lines.push(line), (line) => lines.push(`err ${line}`));
  const around = { a: [1, "x", null, undefined, 2n, new Map([["k", new Set([1])]])] };
  around.self = around;
  console.log("text", around, new Uint8Array(2));
  console.warn(new Array(200).fill(0).length, Object.create(null), class Named {});
  console.error(new Error("outer", { cause: new TypeError("inner") }));
  assert.equal(lines[0], 'text {a: [1, "x", null, undefined, 2n, Map {"k" => Set {1}}], self: [around itself]} Uint8Array(2) [0, 0]\n');
  assert.equal(lines[1], "err 200 {} [function Named]\n");
  assert.match(lines[2], /^err Error: outer\n(.*\n)*caused by TypeError: inner\n/);
  console.assert(false, "why");
  console.assert(true);
  assert.deepEqual(lines.slice(3), ["err assertion failed why\n"]);
});

test("randomness is all of what is drawn", () => {
  const all = (byte) => (count) => new Uint8Array(count).fill(byte);
  assert.equal(makeCrypto(all(0xff)).randomUUID(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
  assert.deepEqual([...makeCrypto(all(1)).getRandomValues(new Uint16Array(2))], [0x101, 0x101]);
  assert.throws(() => makeCrypto(all(1)).getRandomValues(new Float32Array(1)), TypeError);
  assert.throws(() => makeCrypto(all(1)).getRandomValues(new Uint8Array(65537)), { name: "QuotaExceededError" });
  assert.deepEqual([makeRandom(all(0))(), makeRandom(all(0xff))()], [0, 1 - 2 ** -53]);
});
