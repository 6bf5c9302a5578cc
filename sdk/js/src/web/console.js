// The console: each call is a line of the log, `log`, `info` and `debug` on the one stream, all else on the other.

/** What it is, as people read it. Text within something else is quoted. */
export function show(value, depth = 0, around = []) {
  if (typeof value === "string") return depth > 0 ? JSON.stringify(value) : value;
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return `[function ${value.name || "without a name"}]`;
  if (typeof value !== "object" || value === null) return Object.is(value, -0) ? "-0" : String(value);
  if (around.includes(value)) return "[around itself]";
  if (value instanceof Error) return showError(value, depth, around);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "no date" : value.toISOString();
  if (value instanceof RegExp || value instanceof URL) return String(value);
  const inner = [...around, value];
  const each = (item) => show(item, depth + 1, inner);
  const name = value.constructor?.name ?? "";
  if (depth > 4) return `[${name || "object"}]`;
  if (ArrayBuffer.isView(value)) return `${name}(${value.byteLength}) [${showSome([...new Uint8Array(value.buffer, value.byteOffset, Math.min(value.byteLength, 101))], each)}]`;
  if (value instanceof ArrayBuffer) return `ArrayBuffer(${value.byteLength})`;
  if (Array.isArray(value)) return `[${showSome(value, each)}]`;
  if (value instanceof Set) return `Set {${showSome([...value], each)}}`;
  if (value instanceof Map || value instanceof Headers) {
    return `${name} {${showSome([...value], ([key, item]) => `${each(key)} => ${each(item)}`)}}`;
  }
  const fields = showSome(Object.keys(value), (key) => `${key}: ${each(value[key])}`);
  return `${name === "Object" || name === "" ? "" : `${name} `}{${fields}}`;
}

const MOST = 100;

function showSome(items, each) {
  const shown = Array.from(items.slice(0, MOST), (item) => each(item)).join(", ");
  return items.length > MOST ? `${shown}, …` : shown;
}

/** With where it comes from, and its causes. */
function showError(error, depth, around) {
  const words = `${error.name}: ${error.message}`;
  const stack = typeof error.stack === "string" ? error.stack.trimEnd() : "";
  // Some engines begin the stack with the words.
  let text = stack === "" ? words : stack.startsWith(words) ? stack : `${words}\n${stack}`;
  const inner = [...around, error];
  if (error.cause !== undefined) text += `\ncaused by ${show(error.cause, depth, inner)}`;
  for (const one of error instanceof AggregateError ? error.errors : []) text += `\none is ${show(one, depth, inner)}`;
  return text;
}

/** A console that writes whole lines. */
export function makeConsole(out, err) {
  const line = (write) => (...values) => write(`${values.map((value) => show(value)).join(" ")}\n`);
  const [low, high] = [line(out), line(err)];
  return {
    log: low,
    info: low,
    debug: low,
    dir: (value) => low(value),
    warn: high,
    error: high,
    trace: (...values) => high(...values, new Error("trace").stack),
    assert: (good, ...values) => {
      if (!good) high("assertion failed", ...values);
    },
  };
}
