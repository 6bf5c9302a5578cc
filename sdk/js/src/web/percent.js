// Percent-encoding: which characters of ASCII are written as bytes, and the way back. All others always are.

/** Of the controls each set has all, and U+007F. */
const set = (characters) => new Set(characters);

export const OPAQUE = set("");
export const FRAGMENT = set(' "<>`');
export const QUERY = set(' "#<>');
export const SPECIAL_QUERY = set(` "#<>'`);
export const PATH = set(' "#<>?^`{}');
export const USERINFO = set(' "#<>?^`{}/:;=@[\\]|');

const PLAIN = /^[\x21\x24-\x26\x28-\x3b\x3d\x40-\x5a\x5f\x61-\x7a~]*$/;

/** Text without halves of surrogate pairs. */
export function percentEncode(text, characters) {
  if (characters !== USERINFO && PLAIN.test(text)) return text;
  let out = "";
  for (const character of text) {
    const unit = character.charCodeAt(0);
    if (unit > 0x7e) out += unit === 0x7f ? "%7F" : encodeURIComponent(character);
    else if (unit < 0x20 || characters.has(character)) out += `%${unit.toString(16).toUpperCase().padStart(2, "0")}`;
    else out += character;
  }
  return out;
}

const digit = (byte) => {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
};

/** A percent sign without two digits stays. */
export function percentDecode(bytes) {
  if (!bytes.includes(0x25)) return bytes;
  const out = new Uint8Array(bytes.length);
  let length = 0;
  for (let at = 0; at < bytes.length; at++) {
    const [high, low] = [digit(bytes[at + 1]), digit(bytes[at + 2])];
    if (bytes[at] === 0x25 && high >= 0 && low >= 0) {
      out[length++] = high * 16 + low;
      at += 2;
    } else out[length++] = bytes[at];
  }
  return out.slice(0, length);
}
