import assert from "node:assert/strict";
import test from "node:test";
import * as jobs from "../src/web/jobs.js";

const Native = Promise;

/** The order in which a program's steps happen, with one kind of promises. */
const orders = (Kind) => {
  const steps = [];
  const step = (name) => (value) => (steps.push([name, value]), value);
  const thenable = { then: (resolve) => (steps.push(["thenable"]), resolve("t"), resolve("twice")) };
  Kind.resolve(1).then(step("a")).then(step("b")).finally(() => steps.push(["finally"])).then(step("c"));
  Kind.resolve(Kind.resolve(2)).then(step("d"));
  new Kind((resolve) => resolve(Kind.resolve(3))).then(step("e"));
  new Kind((resolve) => resolve(thenable)).then(step("f"));
  new Kind((_, reject) => reject("no")).then(step("never")).catch(step("g")).then(step("h"));
  new Kind(() => {
    throw "thrown";
  }).catch(step("i"));
  Kind.resolve().then(() => {
    throw "later";
  }).then(step("never"), step("j"));
  Kind.resolve().then(() => Kind.resolve(4)).then(step("k"));
  Kind.all([1, Kind.resolve(5), thenable]).then(step("all"));
  Kind.all([]).then(step("none"));
  Kind.all([Kind.reject("first"), 1]).catch(step("all fails"));
  Kind.allSettled([1, Kind.reject("x")]).then(step("settled"));
  Kind.any([Kind.reject(1), Kind.resolve(6)]).then(step("any"));
  Kind.any([Kind.reject(7)]).catch((error) => step("any fails")(error.errors));
  Kind.race([new Kind(() => {}), Kind.resolve(8)]).then(step("race"));
  const { promise, resolve } = Kind.withResolvers?.() ?? {};
  if (promise) promise.then(step("with"));
  resolve?.(9);
  const itself = new Kind((resolve) => Kind.resolve().then(() => resolve(itself)));
  itself.catch((error) => step("itself")(error instanceof TypeError));
  return steps;
};

test("steps happen in the order of the engine's own promises", async () => {
  const theirs = orders(class extends Native {});
  const plain = orders(Native);
  await new Native((resolve) => setTimeout(resolve, 5));
  const ours = orders(jobs.Promise);
  jobs.runJobs();
  assert.ok(theirs.length >= 20 && plain.length >= 20);
  const comparable = (steps) => steps.filter(([name]) => name !== "with");
  assert.deepEqual(comparable(ours), comparable(plain));
  assert.deepEqual(jobs.takeUnheard(), []);
});

test("a rejection that nobody listens to is told once", () => {
  jobs.Promise.reject("lost");
  jobs.Promise.reject("heard").catch(() => {});
  jobs.runJobs();
  assert.deepEqual(jobs.takeUnheard(), ["lost"]);
  assert.deepEqual(jobs.takeUnheard(), []);
});

test("timers wait in place, in the order in which they are due", () => {
  const ran = [];
  jobs.setTimeout((name) => ran.push(name), 20, "late");
  jobs.setTimeout(() => ran.push("early"), 1);
  jobs.clearTimeout(jobs.setTimeout(() => ran.push("cleared"), 0));
  const slept = [];
  const sleep = (ms) => {
    slept.push(ms);
    const end = Date.now() + ms;
    while (Date.now() < end);
  };
  while (jobs.runNextTimer(sleep));
  assert.deepEqual(ran, ["early", "late"]);
  assert.ok(slept.every((ms) => ms > 0));
  jobs.setInterval(() => ran.push("again"), 1);
  jobs.runNextTimer(sleep);
  assert.ok(jobs.runNextTimer(sleep));
  assert.deepEqual(ran.slice(2), ["again", "again"]);
  jobs.dropTimers();
  assert.ok(!jobs.runNextTimer(sleep));
});

test("jobs are functions, and run to the last", () => {
  assert.throws(() => jobs.queueMicrotask(1), TypeError);
  let left = 5000;
  const next = () => {
    left -= 1;
    if (left > 0) jobs.queueMicrotask(next);
  };
  jobs.queueMicrotask(next);
  jobs.runJobs();
  assert.equal(left, 0);
});
