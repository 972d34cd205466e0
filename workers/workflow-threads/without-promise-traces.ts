import v8 from 'node:v8';

/**
 * Loaded into each thread that runs workflows. A stack trace for each promise, which only the query for a workflow's stack shows, is
 * a third of such a thread's time for a task. Without it that query's answer is empty; the current details say what a workflow waits for.
 */
v8.promiseHooks.createHook = () => () => undefined;
