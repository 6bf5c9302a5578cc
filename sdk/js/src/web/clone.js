// structuredClone, of what is data: no functions, no promises, nothing that is handed over.

const PLAIN = [Date, RegExp, Boolean, Number, String, BigInt];
const ERRORS = [EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError];

const refuse = (value) => {
  throw new DOMException(`${typeof value === "symbol" ? "a symbol" : (value?.constructor?.name ?? "this")} cannot be cloned`, "DataCloneError");
};

function copyBuffer(buffer, seen) {
  if (!seen.has(buffer)) seen.set(buffer, buffer.slice(0));
  return seen.get(buffer);
}

/** A copy that has nothing filled in yet. */
function begin(value, seen) {
  if (value instanceof Date) return new Date(value.getTime());
  if (value instanceof RegExp) return new RegExp(value.source, value.flags);
  if (PLAIN.some((type) => value instanceof type)) return Object(value.valueOf());
  if (value instanceof ArrayBuffer) return copyBuffer(value, seen);
  if (ArrayBuffer.isView(value)) {
    const length = value instanceof DataView ? value.byteLength : value.length;
    return new value.constructor(copyBuffer(value.buffer, seen), value.byteOffset, length);
  }
  if (value instanceof Map) return new Map();
  if (value instanceof Set) return new Set();
  if (Array.isArray(value)) return new Array(value.length);
  if (value instanceof Error) return new (ERRORS.find((type) => value.name === type.name) ?? Error)(value.message);
  const tag = Object.prototype.toString.call(value);
  if (typeof value !== "object" || tag !== "[object Object]" || value instanceof WeakMap || value instanceof WeakSet) {
    refuse(value);
  }
  return {};
}

function clone(value, seen) {
  if (typeof value === "symbol" || typeof value === "function") refuse(value);
  if (typeof value !== "object" || value === null) return value;
  if (seen.has(value)) return seen.get(value);
  const copy = begin(value, seen);
  seen.set(value, copy);
  if (value instanceof Map) for (const [key, item] of [...value]) copy.set(clone(key, seen), clone(item, seen));
  else if (value instanceof Set) for (const item of [...value]) copy.add(clone(item, seen));
  else if (value instanceof Error) {
    for (const key of ["stack", "cause"]) {
      if (Object.hasOwn(value, key)) Object.defineProperty(copy, key, { value: clone(value[key], seen), writable: true, configurable: true });
    }
  } else if (Array.isArray(value) || Object.prototype.toString.call(copy) === "[object Object]") {
    for (const key of Object.keys(value)) copy[key] = clone(value[key], seen);
  }
  return copy;
}

export function structuredClone(value, options = {}) {
  if ((options?.transfer ?? []).length > 0) throw new DOMException("nothing can be handed over", "DataCloneError");
  return clone(value, new Map());
}
