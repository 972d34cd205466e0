import '../../workers/workflow-threads/without-promise-traces.ts';
import vm from 'node:vm';

/**
 * Loaded into each test process and its threads, where the Temporal SDK runs workflows. Half of such a thread's time is two
 * of the SDK's aids, which no test needs: a watchdog thread for each call into a workflow (100 µs instead of 2), as a test
 * has its own timeout, and a stack trace for each promise, which only the query for a workflow's stack shows.
 */
const runInContext = vm.Script.prototype.runInContext;
vm.Script.prototype.runInContext = function withoutWatchdog(context, options) {
  const { timeout: _, ...rest } = options ?? {};
  return runInContext.call(this, context, rest);
};
