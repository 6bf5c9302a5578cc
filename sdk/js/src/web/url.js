// URL and URLSearchParams, as the URL standard has them, but for two things: names of hosts are ASCII (`xn--…` stays as it is),
// and there are no URLs of `file:`, which mean nothing here.

import { encode, TextDecoder } from "./encoding.js";
import { parseHost } from "./host.js";
import { FRAGMENT, OPAQUE, PATH, percentDecode, percentEncode, QUERY, SPECIAL_QUERY, USERINFO } from "./percent.js";

const PORTS = { "http:": 80, "https:": 443, "ws:": 80, "wss:": 443, "ftp:": 21 };
const isSpecial = (scheme) => scheme in PORTS;
const queryOf = (scheme, text) => percentEncode(text, isSpecial(scheme) ? SPECIAL_QUERY : QUERY);

class Invalid extends Error {}

/** Sets the path, beginning with that of `url`: in whole segments, without dots. */
function parsePath(url, text) {
  const special = isSpecial(url.scheme);
  const segments = text.split(special ? /[/\\]/ : "/");
  if (segments[0] === "" && segments.length > 1) segments.shift();
  segments.forEach((segment, at) => {
    const last = at === segments.length - 1;
    const dots = segment.replace(/%2e/gi, ".");
    if (dots === "..") url.path.pop();
    if (dots === ".." || dots === ".") {
      if (last) url.path.push("");
    } else url.path.push(percentEncode(segment, PATH));
  });
}

function portOf(scheme, text) {
  if (!/^[0-9]*$/.test(text) || Number(text) > 65535) throw new Invalid("the port is none");
  return text === "" || Number(text) === PORTS[scheme] ? null : Number(text);
}

/** Where the name of a host ends: at the colon before the port, or at the end. */
function portAt(text) {
  const at = text.indexOf(":", text.startsWith("[") ? Math.max(text.indexOf("]"), 0) : 0);
  return at < 0 ? text.length : at;
}

function parseAuthority(url, text) {
  const special = isSpecial(url.scheme);
  const end = text.search(special ? /[/\\]/ : /\//);
  const [authority, path] = end < 0 ? [text, ""] : [text.slice(0, end), text.slice(end)];
  const at = authority.lastIndexOf("@");
  const place = authority.slice(at + 1);
  if (at >= 0) {
    const [, user, password] = /^([^:]*):?(.*)$/s.exec(authority.slice(0, at));
    url.username = percentEncode(user, USERINFO);
    url.password = percentEncode(password, USERINFO);
  }
  const colon = portAt(place);
  const name = place.slice(0, colon);
  if (name === "" && (special || at >= 0 || colon < place.length)) throw new Invalid("there is no host");
  url.host = parseHost(name, special);
  url.port = portOf(url.scheme, place.slice(colon + 1));
  if (special || path !== "") parsePath(url, path);
}

const copyPlace = (url, { username, password, host, port }) => Object.assign(url, { username, password, host, port });

function parseRelative(url, text, query, base) {
  url.scheme = base.scheme;
  const special = isSpecial(url.scheme);
  if ((special ? /^[/\\]{2}/ : /^\/\//).test(text)) return parseAuthority(url, text.replace(special ? /^[/\\]+/ : "//", ""));
  copyPlace(url, base);
  if ((special ? /^[/\\]/ : /^\//).test(text)) return parsePath(url, text);
  url.path = [...base.path];
  if (text === "") {
    if (query === null) url.query = base.query;
    return;
  }
  url.path.pop();
  parsePath(url, text);
}

function parseAfterScheme(url, text, query, base) {
  if (url.scheme === "file:") throw new Invalid("URLs of files mean nothing here");
  if (isSpecial(url.scheme)) {
    if (base?.scheme === url.scheme && !text.startsWith("//")) return parseRelative(url, text, query, base);
    return parseAuthority(url, text.replace(/^[/\\]+/, ""));
  }
  if (text.startsWith("//")) return parseAuthority(url, text.slice(2));
  if (text.startsWith("/")) return parsePath(url, text);
  url.opaque = percentEncode(text, OPAQUE);
}

const PLAIN = /^[\x21-\x7e]*$/;
const strip = (text) => text.toWellFormed().replace(/^[\0-\x20]+|[\0-\x20]+$/g, "").replace(/[\t\n\r]/g, "");

function parse(input, base) {
  const clean = PLAIN.test(input) ? input : strip(input);
  const [, text, , query = null, , fragment = null] = /^([^?#]*)(\?([^#]*))?(#(.*))?$/s.exec(clean);
  const url = { scheme: "", username: "", password: "", host: null, port: null, path: [], opaque: null };
  Object.assign(url, { query: null, fragment: fragment === null ? null : percentEncode(fragment, FRAGMENT) });
  const scheme = /^[a-z][a-z0-9+\-.]*:/i.exec(text)?.[0];
  if (scheme !== undefined) {
    url.scheme = scheme.toLowerCase();
    parseAfterScheme(url, text.slice(scheme.length), query, base);
  } else if (base === undefined) throw new Invalid("it has no scheme, and there is no base");
  else if (base.opaque !== null) {
    if (text !== "" || query !== null || fragment === null) throw new Invalid("the base has no path to go on from");
    Object.assign(url, base, { fragment: url.fragment });
  } else parseRelative(url, text, query, base);
  if (query !== null) url.query = queryOf(url.scheme, query);
  return url;
}

const pathOf = (url) => url.opaque ?? url.path.map((segment) => `/${segment}`).join("");

function placeOf(url) {
  return (url.host ?? "") + (url.port === null ? "" : `:${url.port}`);
}

function serialize(url) {
  let text = url.scheme;
  if (url.host !== null) {
    const password = url.password === "" ? "" : `:${url.password}`;
    const user = url.username === "" && password === "" ? "" : `${url.username}${password}@`;
    text += `//${user}${placeOf(url)}`;
  } else if (url.opaque === null && url.path.length > 1 && url.path[0] === "") text += "/.";
  text += pathOf(url);
  if (url.query !== null) text += `?${url.query}`;
  if (url.fragment !== null) text += `#${url.fragment}`;
  return text;
}

/** What a setter does, if it can be done: what is no part of a URL changes nothing. */
function attempt(url, change) {
  const copy = { ...url, path: [...url.path] };
  try {
    change(copy);
  } catch (error) {
    if (error instanceof Invalid || error instanceof TypeError) return;
    throw error;
  }
  Object.assign(url, copy);
}

export class URL {
  #url;
  /** Made when somebody asks for them. */
  #params = null;

  constructor(url, base) {
    try {
      this.#url = parse(String(url), base === undefined ? undefined : parse(String(base)));
    } catch (error) {
      if (!(error instanceof Invalid || error instanceof TypeError)) throw error;
      throw Object.assign(new TypeError(`Invalid URL: ${error.message}`), { code: "ERR_INVALID_URL", input: String(url) });
    }
  }

  static canParse(url, base) {
    return URL.parse(url, base) !== null;
  }

  static parse(url, base) {
    try {
      return new URL(url, base);
    } catch {
      return null;
    }
  }

  get href() {
    return serialize(this.#url);
  }

  set href(text) {
    this.#url = new URL(text).#url;
    this.#renewParams();
  }

  get origin() {
    return isSpecial(this.#url.scheme) ? `${this.#url.scheme}//${placeOf(this.#url)}` : "null";
  }

  get protocol() {
    return this.#url.scheme;
  }

  set protocol(text) {
    attempt(this.#url, (url) => {
      const scheme = /^[a-z][a-z0-9+\-.]*(?=:|$)/i.exec(text)?.[0].toLowerCase();
      if (scheme === undefined || isSpecial(`${scheme}:`) !== isSpecial(url.scheme)) return;
      url.scheme = `${scheme}:`;
      if (url.port === PORTS[url.scheme]) url.port = null;
    });
  }

  get username() {
    return this.#url.username;
  }

  set username(text) {
    if (this.#url.host) this.#url.username = percentEncode(String(text).toWellFormed(), USERINFO);
  }

  get password() {
    return this.#url.password;
  }

  set password(text) {
    if (this.#url.host) this.#url.password = percentEncode(String(text).toWellFormed(), USERINFO);
  }

  get host() {
    return placeOf(this.#url);
  }

  set host(text) {
    this.#setHost(text, true);
  }

  get hostname() {
    return this.#url.host ?? "";
  }

  set hostname(text) {
    this.#setHost(text, false);
  }

  #setHost(text, withPort) {
    if (this.#url.opaque !== null) return;
    attempt(this.#url, (url) => {
      const special = isSpecial(url.scheme);
      const [place] = String(text).toWellFormed().replace(/[\t\n\r]/g, "").split(special ? /[/\\?#]/ : /[/?#]/);
      const colon = portAt(place);
      const name = place.slice(0, colon);
      if (name === "" && (special || colon < place.length || placeOf(url).includes(":"))) return;
      if (!withPort && colon < place.length) return;
      url.host = parseHost(name, special);
      const port = /^[0-9]+/.exec(place.slice(colon + 1))?.[0];
      if (withPort && port !== undefined && Number(port) <= 65535) url.port = portOf(url.scheme, port);
    });
  }

  get port() {
    return this.#url.port === null ? "" : String(this.#url.port);
  }

  set port(text) {
    if (!this.#url.host) return;
    attempt(this.#url, (url) => {
      const clean = String(text).replace(/[\t\n\r]/g, "");
      const digits = /^[0-9]*/.exec(clean)[0];
      if (digits !== "" || clean === "") url.port = portOf(url.scheme, digits);
    });
  }

  get pathname() {
    return pathOf(this.#url);
  }

  set pathname(text) {
    if (this.#url.opaque !== null) return;
    this.#url.path = [];
    const clean = String(text).toWellFormed().replace(/[\t\n\r]/g, "");
    if (clean !== "" || isSpecial(this.#url.scheme)) parsePath(this.#url, clean);
  }

  get search() {
    return this.#url.query ? `?${this.#url.query}` : "";
  }

  set search(text) {
    const clean = String(text).toWellFormed().replace(/[\t\n\r]/g, "").replace(/^\?/, "");
    this.#url.query = String(text) === "" ? null : queryOf(this.#url.scheme, clean);
    this.#renewParams();
  }

  #renewParams() {
    if (this.#params !== null) URLSearchParams.replace(this.#params, this.#url.query ?? "");
  }

  get searchParams() {
    if (this.#params === null) {
      this.#params = new URLSearchParams();
      this.#renewParams();
      URLSearchParams.follow(this.#params, (text) => {
        this.#url.query = text === "" ? null : text;
      });
    }
    return this.#params;
  }

  get hash() {
    return this.#url.fragment ? `#${this.#url.fragment}` : "";
  }

  set hash(text) {
    const clean = String(text).toWellFormed().replace(/[\t\n\r]/g, "").replace(/^#/, "");
    this.#url.fragment = String(text) === "" ? null : percentEncode(clean, FRAGMENT);
  }

  toString() {
    return this.href;
  }

  toJSON() {
    return this.href;
  }

  get [Symbol.toStringTag]() {
    return "URL";
  }
}

const formDecode = (text) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(percentDecode(encode(text.replaceAll("+", " "))));
const formEncode = (text) => encodeURIComponent(text).replace(/%20/g, "+").replace(/[!'()~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);

function formParse(text) {
  return text.split("&").filter((part) => part !== "").map((part) => {
    const [, name, , value = ""] = /^([^=]*)(=(.*))?$/s.exec(part);
    return [formDecode(name), formDecode(value)];
  });
}

const usv = (text) => String(text).toWellFormed();

export class URLSearchParams {
  #pairs = [];
  /** Who is told of each change. */
  #changed = () => {};

  constructor(init = "") {
    if (init !== null && (typeof init === "object" || typeof init === "function")) {
      if (typeof init[Symbol.iterator] === "function") {
        for (const pair of init) {
          const [name, value, ...more] = pair;
          if (value === undefined || more.length > 0) throw new TypeError("each parameter is a name and a value");
          this.#pairs.push([usv(name), usv(value)]);
        }
      } else this.#pairs = Object.keys(init).map((name) => [usv(name), usv(init[name])]);
    } else this.#pairs = formParse(usv(init).replace(/^\?/, ""));
  }

  static follow(params, changed) {
    params.#changed = changed;
  }

  static replace(params, text) {
    params.#pairs = formParse(text);
  }

  #set(pairs) {
    this.#pairs = pairs;
    this.#changed(this.toString());
  }

  get size() {
    return this.#pairs.length;
  }

  append(name, value) {
    this.#set([...this.#pairs, [usv(name), usv(value)]]);
  }

  delete(name, value) {
    const other = ([known, has]) => known !== usv(name) || (value !== undefined && has !== usv(value));
    this.#set(this.#pairs.filter(other));
  }

  get(name) {
    return this.getAll(name)[0] ?? null;
  }

  getAll(name) {
    return this.#pairs.filter(([known]) => known === usv(name)).map(([, value]) => value);
  }

  has(name, value) {
    return this.getAll(name).some((has) => value === undefined || has === usv(value));
  }

  set(name, value) {
    const first = this.#pairs.findIndex(([known]) => known === usv(name));
    if (first < 0) return this.append(name, value);
    const pairs = this.#pairs.filter(([known], at) => at <= first || known !== usv(name));
    pairs[first] = [usv(name), usv(value)];
    this.#set(pairs);
  }

  sort() {
    this.#set(this.#pairs.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  }

  forEach(each, self) {
    for (const [name, value] of this) each.call(self, value, name, this);
  }

  *entries() {
    for (let at = 0; at < this.#pairs.length; at++) yield [...this.#pairs[at]];
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

  toString() {
    return this.#pairs.map(([name, value]) => `${formEncode(name)}=${formEncode(value)}`).join("&");
  }

  get [Symbol.toStringTag]() {
    return "URLSearchParams";
  }
}
