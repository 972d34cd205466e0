import { fileURLToPath } from 'node:url';
import workerThreads, { type WorkerOptions as ThreadOptions } from 'node:worker_threads';

const preloaded = new URL('./without-promise-traces.ts', import.meta.url).href;

/**
 * Lets the threads in which Temporal's SDK runs workflows do without a stack trace for each promise. Must be called before
 * the first worker. The SDK has no option for it, and takes the class of its threads from this module.
 */
export function lightenWorkflowThreads(): void {
  const { Worker } = workerThreads;
  workerThreads.Worker = class extends Worker {
    constructor(file: string | URL, options?: ThreadOptions) {
      const isWorkflowThread = /workflow-worker-thread\.js$/.test(file instanceof URL ? fileURLToPath(file) : file);
      super(file, isWorkflowThread ? { ...options, execArgv: [...process.execArgv, '--import', preloaded] } : options);
    }
  };
}
