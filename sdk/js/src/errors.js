// Why the host refused something: an error of its own kind, with the host's word as `code`.

class Refusal extends Error {
  /** The host's word: `"quota"`. */
  code;

  constructor(code, words) {
    super(words);
    this.code = code;
  }

  get name() {
    return this.constructor.name;
  }
}

export class StorageError extends Refusal {
  static WORDS = {
    "key-length": "a key is empty, or has more than 2,048 bytes",
    "value-length": "a value has more than 16 MiB",
    quota: "the object would store more than it may: delete something, or raise limits.storage",
    "too-much-at-once": "the turn writes more than fits into one commit: call sync in between",
    "not-a-number": "the value is no number",
    overflow: "the number would leave the range that JavaScript counts exactly",
    unavailable: "the storage cannot be read",
  };
}

export class AlarmError extends Refusal {
  static WORDS = {
    "id-length": "an alarm's id is empty, or has more than 256 bytes",
    "payload-length": "an alarm's payload has more than 4,096 bytes",
    "too-many": "the object has 100 alarms: clear one first",
    unavailable: "the alarms cannot be read",
  };
}

export class SocketError extends Refusal {
  static WORDS = {
    gone: "there is no such socket, or it is closed",
    "too-large": "the message, the attachment or the reason is too large",
    "too-many": "the turn has sent 1,000 commands or 16 MiB to sockets, and may send no more",
    "bad-code": "a close carries 1000, or 3000 to 4999",
  };
}

/** Calls the host. Its refusals, which the engine throws with the value as `payload`, become errors of this kind. */
export function ask(Kind, call) {
  try {
    return call();
  } catch (error) {
    const code = error?.payload?.tag;
    if (!Object.hasOwn(Kind.WORDS, code)) throw error;
    const reason = error.payload.val;
    throw new Kind(code, reason === undefined ? Kind.WORDS[code] : `${Kind.WORDS[code]}: ${reason}`);
  }
}
