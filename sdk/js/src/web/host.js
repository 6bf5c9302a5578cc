// Hosts of URLs: names in ASCII, and addresses of both kinds.

import { encode, latin1 } from "./encoding.js";
import { OPAQUE, percentDecode, percentEncode } from "./percent.js";

const FORBIDDEN = /[\0\t\n\r #/:<>?@[\\\]^|]/;
const FORBIDDEN_IN_NAMES = /[\0-\x20#%/:<>?@[\\\]^|\x7f]/;

const PLAIN = /^[\w.-]*$/;

/** As it stands in the URL. A TypeError tells why it is none. */
export function parseHost(text, special) {
  if (text.startsWith("[")) {
    if (!text.endsWith("]")) throw new TypeError("the address is not closed");
    return `[${showIpv6(parseIpv6(text.slice(1, -1)))}]`;
  }
  if (!special) {
    if (FORBIDDEN.test(text)) throw new TypeError("the host has characters that none has");
    return percentEncode(text, OPAQUE);
  }
  const name = (PLAIN.test(text) ? text : latin1(percentDecode(encode(text)))).toLowerCase();
  if (/[^\0-\x7f]/.test(name)) throw new TypeError("names of hosts are ASCII: write it as xn--…");
  if (FORBIDDEN_IN_NAMES.test(name)) throw new TypeError("the host has characters that none has");
  return endsInNumber(name) ? showIpv4(parseIpv4(name)) : name;
}

function endsInNumber(name) {
  const parts = name.split(".");
  if (parts.at(-1) === "" && parts.length > 1) parts.pop();
  return /^([0-9]+|0x[0-9a-f]*)$/.test(parts.at(-1));
}

function parseIpv4(name) {
  const parts = name.split(".");
  if (parts.at(-1) === "" && parts.length > 1) parts.pop();
  if (parts.length > 4) throw new TypeError("the address has more than four parts");
  const numbers = parts.map((part) => {
    if (/^0x[0-9a-f]*$/.test(part)) return part === "0x" ? 0 : parseInt(part, 16);
    if (/^0[0-7]*$/.test(part)) return parseInt(part, 8);
    if (/^[1-9][0-9]*$/.test(part)) return Number(part);
    throw new TypeError("the address has a part that is no number");
  });
  const last = numbers.pop();
  if (numbers.some((number) => number > 255) || last >= 256 ** (4 - numbers.length)) {
    throw new TypeError("the address has a number that is too large");
  }
  return numbers.reduce((sum, number, at) => sum + number * 256 ** (3 - at), last);
}

const showIpv4 = (address) => [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join(".");

function parseIpv6(text) {
  const wrong = () => new TypeError("the address is none of IPv6");
  const halves = text.split("::");
  if (halves.length > 2) throw wrong();
  const pieces = halves.map((half, at) => {
    const parts = half === "" ? [] : half.split(":");
    return parts.flatMap((part, place) => {
      const last = at === halves.length - 1 && place === parts.length - 1;
      const dotted = /^(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(part)?.slice(1);
      if (dotted !== undefined && last && dotted.every((number) => /^(0|[1-9]\d{0,2})$/.test(number) && number < 256)) {
        return [dotted[0] * 256 + Number(dotted[1]), dotted[2] * 256 + Number(dotted[3])];
      }
      if (!/^[0-9a-f]{1,4}$/i.test(part)) throw wrong();
      return [parseInt(part, 16)];
    });
  });
  const missing = 8 - pieces.flat().length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) throw wrong();
  return [...pieces[0], ...new Array(missing).fill(0), ...(pieces[1] ?? [])];
}

/** The first of the longest runs of zeros is left out, if it has two. */
function showIpv6(pieces) {
  let best = { at: -1, length: 1 };
  for (let at = 0; at < 8; at++) {
    let length = 0;
    while (at + length < 8 && pieces[at + length] === 0) length++;
    if (length > best.length) best = { at, length };
  }
  const show = (some) => some.map((piece) => piece.toString(16)).join(":");
  if (best.at < 0) return show(pieces);
  return `${show(pieces.slice(0, best.at))}::${show(pieces.slice(best.at + best.length))}`;
}
