// A turn: a call of the host, within which everything that the class waits for has to happen.

import { show } from "./web/console.js";
import { dropTimers, Promise, runJobs, runNextTimer, takeUnheard } from "./web/jobs.js";

let running = false;

/** Whether a turn runs, and no module is loaded, which happens when the class is built. */
export const isRunning = () => running;

/** Refuses what a module does while it is loaded: each instance would have that of the build. */
export function wantTurn(what) {
  if (!running) throw new Error(`${what} is for turns; this runs once, when the class is built`);
}

const STUCK = "the turn waits for a promise that nothing is left to settle";

function settle(run, sleep) {
  let ended;
  new Promise((resolve) => resolve(run())).then(
    (value) => (ended = { value }),
    (error) => (ended = { error }),
  );
  runJobs();
  while (ended === undefined && runNextTimer(sleep)) runJobs();
  if (ended === undefined) throw new Error(STUCK);
  if ("error" in ended) throw ended.error;
  const unheard = takeUnheard();
  if (unheard.length > 0) throw new Error("a promise was rejected, and nobody listened", { cause: unheard[0] });
  return ended.value;
}

/** Why a turn failed, as the host learns it. */
function words(error) {
  return (error instanceof Error ? `${error.name}: ${error.message}` : show(error)).toWellFormed();
}

/** Runs a turn with all jobs that come of it. Throws text: the engine hands it to the host as the error. */
export function runTurn(run, host) {
  running = true;
  try {
    return settle(run, host.sleep);
  } catch (error) {
    host.logError(`${show(error)}\n`);
    throw words(error);
  } finally {
    dropTimers();
    running = false;
  }
}
