// What the SDK has, for editors and for TypeScript. README.md is the documentation.

/** Text stands for its bytes as UTF-8. */
export type Bytes = string | ArrayBuffer | ArrayBufferView;

/** A request of the web, with the WebSocket that it asks for. */
export interface ObjectRequest extends Request {
  /** Null if it asks for none. */
  readonly socket: Socket | null;
}

export interface Range {
  /** Keys that begin so. */
  prefix?: Bytes;
  /** The first key. */
  start?: Bytes;
  /** The first key that does not belong to it any more. */
  end?: Bytes;
  /** From the last key to the first. */
  reverse?: boolean;
  /** At most so many entries; 0 is no limit but that of a page. */
  limit?: number;
}

/** A key with its value. */
export declare class Entry {
  readonly key: string;
  readonly keyBytes: Uint8Array;
  readonly value: Uint8Array;
  text(): string;
  json(): any;
}

export interface Storage {
  get(key: Bytes): Promise<Uint8Array | null>;
  getText(key: Bytes): Promise<string | null>;
  getJson(key: Bytes): Promise<any>;
  /** 0 if there is none. */
  getNumber(key: Bytes): Promise<number>;
  put(key: Bytes, value: Bytes): Promise<void>;
  putJson(key: Bytes, value: unknown): Promise<void>;
  delete(key: Bytes): Promise<void>;
  /** Adds 1 unless something else is said, and tells the sum. */
  increment(key: Bytes, by?: number): Promise<number>;
  /** Writes `next` (null: deletes) if the value is `expected` (null: there is none); tells whether it was. */
  compareAndSwap(key: Bytes, expected: Bytes | null, next: Bytes | null): Promise<boolean>;
  /** A page: at most 1,000 entries and 1 MiB. `next` is the range of the rest, or null. */
  scan(range?: Range): Promise<{ entries: Entry[]; next: Range | null }>;
  /** Every entry, page by page. */
  entries(range?: Range): AsyncGenerator<Entry>;
  deleteAll(): Promise<void>;
  /** A commit point: returns when all that was written so far is durable. */
  sync(): Promise<void>;
  usage(): Promise<{ bytes: number; most: number }>;
}

/** An alarm that is set, or that is due. */
export declare class Alarm {
  readonly id: string;
  readonly at: Date;
  readonly payload: Uint8Array;
  /** Of one that is due: 1 for the first. */
  readonly attempt?: number;
  text(): string;
  json(): any;
}

export interface Alarms {
  /** At a Date, or milliseconds of Unix time. One of the same id is replaced. */
  set(id: string, at: Date | number, payload?: Bytes): Promise<void>;
  /** After so many milliseconds. */
  setIn(id: string, ms: number, payload?: Bytes): Promise<void>;
  clear(id: string): Promise<void>;
  getAll(): Promise<Alarm[]>;
}

/** A WebSocket that the node keeps open for this object. */
export declare class Socket {
  /** No other socket of the object has it. */
  readonly number: number;
  /** The answer that takes it: return it from `fetch`. */
  accept(how?: { tags?: string[]; attachment?: Bytes; protocol?: string | null }): Response;
  send(data: Bytes): Promise<void>;
  /** 1000 unless something else is said, or 3000 to 4999. */
  close(code?: number, reason?: string): Promise<void>;
  tags(): Promise<string[]>;
  attachment(): Promise<Uint8Array>;
  setAttachment(attachment: Bytes): Promise<void>;
}

export interface Sockets {
  all(): Promise<Socket[]>;
  tagged(tag: string): Promise<Socket[]>;
  broadcast(tag: string, data: Bytes, options?: { but?: Socket | null }): Promise<void>;
}

/** What a class extends: the module's default export. */
export declare class DurableObject {
  readonly storage: Storage;
  readonly alarms: Alarms;
  readonly sockets: Sockets;
  readonly identity: { id: string; name: string | null; class: string; zone: string; epoch: number; schemaVersion: number };
  /** How many messages wait for the object. */
  readonly queueLength: number;
  /** Milliseconds on its core that this turn has taken. */
  readonly cpuUsed: number;
  /** A variable or a secret of the project. */
  config(name: string): Promise<string | null>;
  fetch(request: ObjectRequest): Promise<Response>;
  alarm(alarm: Alarm): Promise<void>;
  message(socket: Socket, data: string | Uint8Array): Promise<void>;
  closed(socket: Socket, code: number, reason: string): Promise<void>;
  upgrade(fromVersion: number): Promise<void>;
}

/** Why the host refused something; `code` is its word, such as `quota`. */
export declare class StorageError extends Error {
  readonly code: string;
}
export declare class AlarmError extends Error {
  readonly code: string;
}
export declare class SocketError extends Error {
  readonly code: string;
}
