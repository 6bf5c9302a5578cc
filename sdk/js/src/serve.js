// From the host's calls to the methods of a class, and back. What is built makes its export of this.

import "./prelude.js";
import { eventsOf } from "./events.js";
import { host } from "./host.js";

/** The export `events` of a component that is this class. */
export const serve = (Class) => eventsOf(Class, host);
