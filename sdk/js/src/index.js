// Classes of objects for Berth, written in JavaScript. README.md is the documentation.

import "./prelude.js";

export { Alarm } from "./alarms.js";
export { AlarmError, SocketError, StorageError } from "./errors.js";
export { DurableObject } from "./object.js";
export { Socket } from "./sockets.js";
export { Entry } from "./storage.js";
