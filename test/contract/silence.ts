import { DefaultLogger, Runtime } from '@temporalio/worker';

/** Activities that fail are what these tests are about: Temporal need not say so each time. */
export function installSilence(): void {
  Runtime.install({ logger: new DefaultLogger('ERROR') });
}
