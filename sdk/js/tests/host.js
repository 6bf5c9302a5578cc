// A host in memory: what the tests need of the interfaces, with refusals as the engine throws them.

const text = (bytes) => new TextDecoder().decode(bytes);
const refuse = (tag, val) => {
  throw Object.assign(new Error("refused"), { payload: { tag, val } });
};

export function makeHost() {
  const [values, alarms, log, sent] = [new Map(), new Map(), [], []];
  const keys = () => [...values.keys()].sort();
  const storage = {
    get: (key) => values.get(text(key)) ?? null,
    put: (key, value) => (key.length === 0 ? refuse("key-length") : void values.set(text(key), value)),
    delete: (key) => void values.delete(text(key)),
    deleteAll: () => values.clear(),
    increment(key, by) {
      const sum = BigInt(values.has(text(key)) ? text(values.get(text(key))) : 0) + BigInt(by);
      values.set(text(key), new TextEncoder().encode(String(sum)));
      return Number(sum);
    },
    compareAndSwap(key, expected, next) {
      const is = values.get(text(key));
      if ((is === undefined ? null : text(is)) !== (expected === null ? null : text(expected))) return false;
      if (next === null) values.delete(text(key));
      else values.set(text(key), next);
      return true;
    },
    scan({ start, end, reverse, limit }) {
      const inside = keys().filter((key) => (start === null || key >= text(start)) && (end === null || key < text(end)));
      if (reverse) inside.reverse();
      const most = Math.min(limit || 1000, 2);
      const entries = inside.slice(0, most).map((key) => ({ key: new TextEncoder().encode(key), value: values.get(key) }));
      return { entries, more: inside.length > most };
    },
    sync: () => refuse("unavailable", "the disk is gone"),
    getUsage: () => ({ bytes: values.size, most: 1000 }),
  };
  return {
    storage,
    alarms: {
      set: (alarm) => void alarms.set(alarm.id, alarm),
      clear: (id) => void alarms.delete(id),
      getAll: () => [...alarms.values()],
    },
    sockets: {
      send: (socket, data) => (socket === 9 ? refuse("gone") : void sent.push([socket, data])),
      broadcast: (tag, data, but) => void sent.push([tag, data, but]),
      tagged: (tag) => (tag === null ? [1, 2] : [2]),
    },
    identity: {
      getIdentity: () => ({ id: "10".repeat(16), name: undefined, class: "Counter", zone: "z", epoch: 3, schemaVersion: 2 }),
      queueLength: () => 4,
      cpuUsedUs: () => 2000,
    },
    config: (name) => (name === "GREETING" ? "ahoy" : null),
    logError: (line) => void log.push(line),
    sleep(ms) {
      const end = Date.now() + ms;
      while (Date.now() < end);
    },
    log,
    sent,
    values,
  };
}
