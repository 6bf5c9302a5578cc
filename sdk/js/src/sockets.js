// The object's WebSockets. The node keeps them open, also while no instance runs; what is sent leaves with the turn's writes.

import { ask, SocketError } from "./errors.js";
import { toBytes } from "./storage.js";
import { bytesOf } from "./web/encoding.js";
import { Response } from "./web/fetch.js";

/** A message: text or bytes. */
const toData = (data) =>
  typeof data === "string" ? { tag: "text", val: data.toWellFormed() } : { tag: "binary", val: bytesOf(data) };

const text = (value) => String(value).toWellFormed();

/** A WebSocket that the node keeps open for this object. */
export class Socket {
  #host;

  constructor(number, host) {
    // The engine has numbers of 64 bits as doubles: beyond these it could be another socket's.
    if (!Number.isSafeInteger(number)) throw new RangeError(`the number of a socket is too large: ${number}`);
    this.#host = host;
    /** No other socket of the object has it. It is the same in the next instance. */
    this.number = number;
  }

  #ask(call) {
    return ask(SocketError, () => call(this.#host));
  }

  /** The answer that takes this socket, which a request asked for: return it from `fetch`. */
  accept({ tags = [], attachment = "", protocol = null } = {}) {
    const accept = { tags: [...tags].map(text), attachment: toBytes(attachment) };
    return Response.accepting({ ...accept, protocol: protocol === null ? null : text(protocol) });
  }

  /** Sends a message, text or bytes, of at most 1 MiB. */
  async send(data) {
    this.#ask((host) => host.send(this.number, toData(data)));
  }

  /** Closes it with a code: 1000, or 3000 to 4999. */
  async close(code = 1000, reason = "") {
    if (!Number.isInteger(code) || code < 0 || code > 65535) throw new SocketError("bad-code", SocketError.WORDS["bad-code"]);
    this.#ask((host) => host.close(this.number, code, text(reason)));
  }

  /** The tags that it was taken with. */
  async tags() {
    return this.#ask((host) => host.tags(this.number));
  }

  /** The bytes that the node keeps beside it for the object. */
  async attachment() {
    return this.#ask((host) => host.attachment(this.number));
  }

  /** Replaces them, by text or bytes of at most 2,048. */
  async setAttachment(attachment) {
    this.#ask((host) => host.setAttachment(this.number, toBytes(attachment)));
  }
}

export class Sockets {
  #host;

  constructor(host) {
    this.#host = host;
  }

  /** All of them. */
  async all() {
    return this.#host.tagged(null).map((number) => new Socket(number, this.#host));
  }

  /** Those that have the tag. */
  async tagged(tag) {
    return this.#host.tagged(text(tag)).map((number) => new Socket(number, this.#host));
  }

  /** Sends to all that have the tag, but for the socket `but`. */
  async broadcast(tag, data, { but = null } = {}) {
    ask(SocketError, () => this.#host.broadcast(text(tag), toData(data), but === null ? null : but.number));
  }
}
