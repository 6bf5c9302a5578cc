// Randomness of the node. `crypto.subtle` is not here.

const MOST = 65536;

/** `draw` tells so many random bytes. */
export function makeCrypto(draw) {
  return {
    getRandomValues(view) {
      if (!ArrayBuffer.isView(view) || view instanceof DataView || /Float/.test(view.constructor.name)) {
        throw new TypeError("an array of whole numbers is wanted");
      }
      if (view.byteLength > MOST) throw new DOMException(`more than ${MOST} bytes at once`, "QuotaExceededError");
      new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(draw(view.byteLength));
      return view;
    },

    randomUUID() {
      const bytes = Uint8Array.from(draw(16));
      bytes[6] = (bytes[6] & 0x0f) | 0x40;
      bytes[8] = (bytes[8] & 0x3f) | 0x80;
      const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
      return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
    },
  };
}

/** From 0 up to and without 1, in 53 bits of six bytes and five bits more. */
export function makeRandom(draw) {
  return () => {
    const bytes = draw(7);
    let number = bytes[6] & 0x1f;
    for (let at = 0; at < 6; at++) number = number * 256 + bytes[at];
    return number / 2 ** 53;
  };
}
