// Headers, as the Fetch standard has them: names in lower case, values of characters up to U+00FF.

import { latin1 } from "./encoding.js";

const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const SPACE_AROUND = /^[\t\n\r ]+|[\t\n\r ]+$/g;
const NO_VALUE = /[\0\n\r]|[^\0-\xff]/;

function nameOf(name) {
  const text = String(name);
  if (!NAME.test(text)) throw new TypeError(`${JSON.stringify(text)} is no name of a header`);
  return text.toLowerCase();
}

const isSpace = (unit) => unit === 0x20 || unit === 0x09 || unit === 0x0a || unit === 0x0d;

function valueOf(value) {
  let text = String(value);
  if (isSpace(text.charCodeAt(0)) || isSpace(text.charCodeAt(text.length - 1))) text = text.replace(SPACE_AROUND, "");
  if (NO_VALUE.test(text)) throw new TypeError(`${JSON.stringify(text)} is no value of a header`);
  return text;
}

export class Headers {
  /** Names and values in the order in which they came. */
  #fields = [];

  constructor(init) {
    if (init === undefined) return;
    if (init === null || typeof init !== "object") throw new TypeError("headers are made of pairs, or of an object");
    if (init instanceof Headers) this.#fields = [...init.#fields];
    else if (typeof init[Symbol.iterator] === "function") {
      for (const pair of init) {
        const [name, value, ...more] = pair;
        if (value === undefined || more.length > 0) throw new TypeError("each header is a name and a value");
        this.append(name, value);
      }
    } else for (const name of Object.keys(init)) this.append(name, init[name]);
  }

  append(name, value) {
    this.#fields.push([nameOf(name), valueOf(value)]);
  }

  set(name, value) {
    const [known, text] = [nameOf(name), valueOf(value)];
    const first = this.#fields.findIndex(([other]) => other === known);
    if (first < 0) return void this.#fields.push([known, text]);
    this.#fields[first] = [known, text];
    this.#fields = this.#fields.filter(([other], at) => at <= first || other !== known);
  }

  delete(name) {
    const known = nameOf(name);
    this.#fields = this.#fields.filter(([other]) => other !== known);
  }

  #values(known) {
    return this.#fields.filter(([other]) => other === known).map(([, value]) => value);
  }

  get(name) {
    const values = this.#values(nameOf(name));
    return values.length > 0 ? values.join(", ") : null;
  }

  has(name) {
    return this.#values(nameOf(name)).length > 0;
  }

  getSetCookie() {
    return this.#values("set-cookie");
  }

  forEach(each, self) {
    for (const [name, value] of this) each.call(self, value, name, this);
  }

  /** By name, with the values of a name together; cookies, which have commas, one by one. */
  *entries() {
    for (const name of [...new Set(this.#fields.map(([name]) => name))].sort()) {
      if (name === "set-cookie") for (const value of this.getSetCookie()) yield [name, value];
      else yield [name, this.get(name)];
    }
  }

  *keys() {
    for (const [name] of this) yield name;
  }

  *values() {
    for (const [, value] of this) yield value;
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  get [Symbol.toStringTag]() {
    return "Headers";
  }

  /** For the host: pairs of a name and bytes. */
  static toHost(headers) {
    return headers.#fields.map(([name, value]) => [name, Uint8Array.from(value, (unit) => unit.charCodeAt(0))]);
  }

  /** From the host, which has looked at them: nothing is refused again. */
  static ofHost(fields) {
    const headers = new Headers();
    headers.#fields = fields.map(([name, value]) => [name, latin1(value)]);
    return headers;
  }
}
