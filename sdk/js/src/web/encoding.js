// TextEncoder and TextDecoder, of UTF-8 alone. Where the engine has base64 of its own, bytes and text go that way, in a few
// passes of native code: a loop in the guest is many times slower.

const ASCII = /^[\0-\x7f]*$/;
const NATIVE = typeof Uint8Array.fromBase64 === "function" && typeof Uint8Array.prototype.toBase64 === "function";

/** What is taken at once: what it becomes on the way takes several times its room. */
const PIECE = 32 * 1024;

/** The bytes of text as UTF-8. Halves of surrogate pairs become U+FFFD. */
export function encode(text) {
  if (text.length <= PIECE) return encodePiece(text);
  const pieces = [];
  for (let at = 0; at < text.length; ) {
    let end = at + PIECE;
    // Not between the halves of a pair.
    if ((text.charCodeAt(end - 1) & 0xfc00) === 0xd800) end -= 1;
    pieces.push(encodePiece(text.slice(at, end)));
    at = end;
  }
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function encodePiece(text) {
  if (NATIVE) return Uint8Array.fromBase64(btoa(ASCII.test(text) ? text : unescape(encodeURIComponent(text.toWellFormed()))));
  const bytes = new Uint8Array(text.length * 3);
  const { written } = encodeInto(text, bytes);
  return bytes.slice(0, written);
}

/** Writes as much of the text as there is room for, in whole characters. */
function encodeInto(text, bytes) {
  let [read, written] = [0, 0];
  for (const character of text) {
    let point = character.codePointAt(0);
    if (point >= 0xd800 && point <= 0xdfff) point = 0xfffd;
    const length = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    if (written + length > bytes.length) break;
    if (length === 1) bytes[written] = point;
    else {
      for (let at = length - 1; at > 0; at--) {
        bytes[written + at] = 0x80 | (point & 0x3f);
        point >>= 6;
      }
      bytes[written] = [0, 0, 0xc0, 0xe0, 0xf0][length] | point;
    }
    written += length;
    read += character.length;
  }
  return { read, written };
}

/** Bytes as characters up to U+00FF, as fields of HTTP are. */
export function latin1(bytes) {
  if (NATIVE) return atob(bytes.toBase64());
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return text;
}

/** What each first byte of a sequence says: how many follow, its bits, and the bounds of the second one. */
function sequence(byte) {
  if (byte >= 0xc2 && byte <= 0xdf) return { count: 1, bits: byte & 0x1f, least: 0x80, most: 0xbf };
  if (byte >= 0xe0 && byte <= 0xef) {
    return { count: 2, bits: byte & 0xf, least: byte === 0xe0 ? 0xa0 : 0x80, most: byte === 0xed ? 0x9f : 0xbf };
  }
  if (byte >= 0xf0 && byte <= 0xf4) {
    return { count: 3, bits: byte & 7, least: byte === 0xf0 ? 0x90 : 0x80, most: byte === 0xf4 ? 0x8f : 0xbf };
  }
  return undefined;
}

/** Text of UTF-8, and the bytes at its end that are the beginning of a character. */
function decode(bytes, fatal, more) {
  const parts = [];
  let units = [];
  const push = (point) => {
    if (point > 0xffff) units.push(0xd800 + ((point - 0x10000) >> 10), 0xdc00 + (point & 0x3ff));
    else units.push(point);
    if (units.length < 4096) return;
    parts.push(String.fromCharCode(...units));
    units = [];
  };
  let at = 0;
  while (at < bytes.length) {
    const byte = bytes[at];
    if (byte < 0x80) {
      push(byte);
      at += 1;
      continue;
    }
    const found = sequence(byte);
    let next = at + 1;
    let point = 0xfffd;
    let left = 0;
    if (found) {
      left = found.count;
      point = found.bits;
      let { least, most } = found;
      while (left > 0 && bytes[next] >= least && bytes[next] <= most) {
        point = (point << 6) | (bytes[next] & 0x3f);
        next += 1;
        left -= 1;
        least = 0x80;
        most = 0xbf;
      }
      if (left > 0 && next === bytes.length && more) break;
    }
    if (!found || left > 0) {
      if (fatal) throw new TypeError("the bytes are no UTF-8");
      point = 0xfffd;
    }
    push(point);
    at = next;
  }
  parts.push(String.fromCharCode(...units));
  return { text: parts.join(""), rest: bytes.slice(at) };
}

/** The bytes that a view or a buffer has. Not a copy. */
export function bytesOf(data) {
  if (data instanceof Uint8Array) return data;
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (data instanceof ArrayBuffer || data instanceof SharedArrayBuffer) return new Uint8Array(data);
  throw new TypeError("bytes are wanted: an ArrayBuffer, or a view of one");
}

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(text = "") {
    return encode(String(text));
  }

  encodeInto(text, bytes) {
    return encodeInto(String(text), bytes);
  }
}

const LABELS = ["utf-8", "utf8", "unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "x-unicode20utf8"];

export class TextDecoder {
  #rest = new Uint8Array();
  #begun = false;

  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!LABELS.includes(String(label).trim().toLowerCase())) {
      throw new RangeError(`the encoding ${label} is not here: UTF-8 alone is`);
    }
    this.fatal = Boolean(fatal);
    this.ignoreBOM = Boolean(ignoreBOM);
  }

  get encoding() {
    return "utf-8";
  }

  decode(data = new Uint8Array(), { stream = false } = {}) {
    let bytes = bytesOf(data);
    if (this.#rest.length > 0) {
      const both = new Uint8Array(this.#rest.length + bytes.length);
      both.set(this.#rest);
      both.set(bytes, this.#rest.length);
      bytes = both;
    }
    const begun = this.#begun;
    [this.#rest, this.#begun] = [new Uint8Array(), false];
    let { text, rest } = this.#whole(bytes, stream);
    if (!begun && !this.ignoreBOM && text.startsWith("\ufeff")) text = text.slice(1);
    if (stream) [this.#rest, this.#begun] = [rest, begun || bytes.length > rest.length];
    return text;
  }

  #whole(bytes, more) {
    let text = "";
    let at = 0;
    while (bytes.length - at > PIECE) {
      let end = at + PIECE;
      // Before the first byte of a character, which at most three more follow.
      while (end > at + PIECE - 4 && (bytes[end] & 0xc0) === 0x80) end -= 1;
      text += this.#piece(bytes.subarray(at, end), false).text;
      at = end;
    }
    const last = this.#piece(bytes.subarray(at), more);
    return { text: text + last.text, rest: last.rest };
  }

  #piece(bytes, more) {
    if (NATIVE) {
      const text = latin1(bytes);
      try {
        return { text: ASCII.test(text) ? text : decodeURIComponent(escape(text)), rest: new Uint8Array() };
      } catch {
        // It is no UTF-8, or not yet.
      }
    }
    return decode(bytes, this.fatal, more);
  }
}
