// Request and Response, as the Fetch standard has them, but for streams: bodies are whole, and `body` is their bytes.

import { bytesOf, encode, TextDecoder } from "./encoding.js";
import { Headers } from "./headers.js";
import { URL, URLSearchParams } from "./url.js";

/** The bytes of a body, and the type that it has by itself. */
function extract(body) {
  if (body === undefined || body === null) return { bytes: null, type: null };
  if (typeof body === "string") return { bytes: encode(body), type: "text/plain;charset=UTF-8" };
  if (body instanceof URLSearchParams) {
    return { bytes: encode(body.toString()), type: "application/x-www-form-urlencoded;charset=UTF-8" };
  }
  if (ArrayBuffer.isView(body) || body instanceof ArrayBuffer) return { bytes: bytesOf(body).slice(), type: null };
  if (typeof body === "object" && (Symbol.asyncIterator in body || typeof body.getReader === "function")) {
    throw new TypeError("bodies are whole here: text or bytes, no streams");
  }
  return { bytes: encode(String(body)), type: "text/plain;charset=UTF-8" };
}

class Body {
  #bytes;
  #used = false;

  _init(bytes) {
    this.#bytes = bytes;
  }

  /** The bytes, without being used by that. */
  _peek() {
    return this.#bytes ?? new Uint8Array();
  }

  /** The bytes, or null; a new request or response can be made of them. */
  get body() {
    return this.#bytes;
  }

  get bodyUsed() {
    return this.#used;
  }

  async bytes() {
    if (this.#used) throw new TypeError("the body was read already");
    this.#used = this.#bytes !== null;
    return this._peek();
  }

  async arrayBuffer() {
    const bytes = await this.bytes();
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  }

  async text() {
    return new TextDecoder().decode(await this.bytes());
  }

  async json() {
    return JSON.parse(await this.text());
  }

  async formData() {
    throw new TypeError("forms are not here: read text(), and new URLSearchParams(text)");
  }

  async blob() {
    throw new TypeError("blobs are not here: read bytes()");
  }

  _refuseUsed() {
    if (this.#used) throw new TypeError("the body was read already");
  }
}

const STANDARD = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

function methodOf(method) {
  const text = String(method);
  const upper = text.toUpperCase();
  if (!TOKEN.test(text) || ["CONNECT", "TRACE", "TRACK"].includes(upper)) {
    throw new TypeError(`${JSON.stringify(text)} is no method of a request`);
  }
  return STANDARD.includes(upper) ? upper : text;
}

/** In place of a URL: all the rest is set afterwards. */
const UNSET = Symbol("unset");

export class Request extends Body {
  #socket = null;

  constructor(input, init = {}) {
    super();
    if (input === UNSET) return;
    const from = input instanceof Request ? input : undefined;
    from?._refuseUsed();
    this.url = from ? from.url : new URL(String(input)).href;
    this.method = init.method === undefined ? (from?.method ?? "GET") : methodOf(init.method);
    this.headers = new Headers(init.headers ?? from?.headers);
    this.signal = init.signal ?? from?.signal ?? null;
    const { bytes, type } = init.body === undefined ? { bytes: from?.body ?? null, type: null } : extract(init.body);
    if (bytes !== null && ["GET", "HEAD"].includes(this.method)) throw new TypeError(`${this.method} has no body`);
    if (type !== null && !this.headers.has("content-type")) this.headers.set("content-type", type);
    this._init(bytes);
  }

  /** The WebSocket that it asks for, or null: `return request.socket.accept()` takes it. */
  get socket() {
    return this.#socket;
  }

  clone() {
    this._refuseUsed();
    const clone = new Request(this);
    clone.#socket = this.#socket;
    return clone;
  }

  static ofHost({ method, url, headers, body }, socket) {
    const request = new Request(UNSET);
    Object.assign(request, { url, method, headers: Headers.ofHost(headers), signal: null });
    request._init(body.length > 0 ? body : null);
    request.#socket = socket;
    return request;
  }
}

const NO_BODY = [204, 205, 304];

export class Response extends Body {
  /** How it takes a WebSocket, if it does. */
  #accept = null;

  constructor(body = null, init = {}) {
    super();
    const status = init.status === undefined ? 200 : Number(init.status);
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new RangeError(`a status is from 200 to 599: ${init.status}`);
    }
    this.status = status;
    this.statusText = String(init.statusText ?? "");
    this.headers = new Headers(init.headers);
    this.url = "";
    const { bytes, type } = extract(body);
    if (bytes !== null && NO_BODY.includes(status)) throw new TypeError(`${status} has no body`);
    if (type !== null && !this.headers.has("content-type")) this.headers.set("content-type", type);
    this._init(bytes);
  }

  get ok() {
    return this.status < 300;
  }

  get redirected() {
    return false;
  }

  clone() {
    this._refuseUsed();
    const clone = new Response(this.body, this);
    clone.url = this.url;
    clone.#accept = this.#accept;
    return clone;
  }

  static json(value, init = {}) {
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError("JSON has no such value");
    const headers = new Headers(init.headers);
    if (!headers.has("content-type")) headers.set("content-type", "application/json");
    return new Response(text, { ...init, headers });
  }

  static redirect(url, status = 302) {
    if (![301, 302, 303, 307, 308].includes(status)) throw new RangeError(`${status} is no redirect`);
    return new Response(null, { status, headers: { location: new URL(String(url)).href } });
  }

  static ofHost({ status, headers, body }, url) {
    const response = new Response();
    Object.assign(response, { status, headers: Headers.ofHost(headers), url });
    response._init(body.length > 0 ? body : null);
    return response;
  }

  /** Takes a WebSocket instead of answering; `Socket.accept` makes it. */
  static accepting(accept) {
    const response = new Response();
    response.status = 101;
    response.#accept = accept;
    return response;
  }

  static toHost(response) {
    if (response.#accept !== null) return { tag: "accept", val: response.#accept };
    const { status, headers } = response;
    return { tag: "response", val: { status, headers: Headers.toHost(headers), body: response._peek() } };
  }
}
