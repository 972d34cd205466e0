import { join } from 'node:path';
import { Connection } from '@temporalio/client';
import { searchAttributes, searchAttributeTypes } from '../../model/temporal.ts';
import type { Home } from './home.ts';
import { takesConnections } from './processes.ts';
import { type Child, supervise } from './supervise.ts';

export interface TemporalPorts {
  port: number;
  uiPort: number;
  metricsPort: number;
}

/**
 * The dev server's one shard reads its queues at most 20 times a second unless told otherwise, which makes every
 * activity cost 100 ms. With these six in a row take 62 to 84 ms instead of 650.
 */
export const queuePollRates = ['transfer', 'timer', 'outbound', 'visibility'].flatMap((queue) => [
  '--dynamic-config-value',
  `history.${queue}ProcessorMaxPollRPS=5000`,
]);

/** WAL with synchronous=NORMAL: a killed server loses nothing, a machine that loses its power the last moments. */
const sqlitePragmas = ['--sqlite-pragma', 'journal_mode=WAL', '--sqlite-pragma', 'synchronous=1'];

/** It listens on 127.0.0.1: given another address, its own parts look for each other at the wrong one. */
export function startTemporal(
  home: Home,
  place: TemporalPorts,
  env: Record<string, string>,
  note: (text: string) => void,
): Child {
  const attributes = Object.entries(searchAttributeTypes).flatMap(([name, type]) => ['--search-attribute', `${name}=${type}`]);
  return supervise(
    {
      name: 'temporal',
      argv: [
        'temporal',
        'server',
        'start-dev',
        '--db-filename',
        join(home.temporal, 'temporal.db'),
        '--ip',
        '127.0.0.1',
        '--port',
        String(place.port),
        '--ui-port',
        String(place.uiPort),
        '--metrics-port',
        String(place.metricsPort),
        '--log-level',
        'warn',
        ...attributes,
        ...queuePollRates,
        ...sqlitePragmas,
      ],
      env,
      logFile: join(home.logs, 'temporal.log'),
      isReady: async () => {
        if (!(await takesConnections(place.port))) return false;
        return isNamespaceReady(`127.0.0.1:${place.port}`);
      },
      // Its own orderly end takes five seconds, and saves nothing that isn't in the file already.
      stopSignal: 'SIGKILL',
    },
    note,
  );
}

/** The frontend listens before its namespace and our search attributes are there. */
async function isNamespaceReady(address: string): Promise<boolean> {
  const connection = await Connection.connect({ address, connectTimeout: 2000 });
  try {
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: 'default' });
    return searchAttributes.every((name) => customAttributes?.[name] !== undefined);
  } finally {
    await connection.close();
  }
}
