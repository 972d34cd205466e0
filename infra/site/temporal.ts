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
 * By default the dev server's one shard polls its queues at most 20 times a second, so that every activity costs 100 ms.
 * With these rates six in a row take 62 to 84 ms instead of 650.
 */
export const queuePollRates = ['transfer', 'timer', 'outbound', 'visibility'].flatMap((queue) => [
  '--dynamic-config-value',
  `history.${queue}ProcessorMaxPollRPS=5000`,
]);

/** WAL with synchronous=NORMAL: a killed server loses nothing, a machine that loses power loses the last moments. */
const sqlitePragmas = ['--sqlite-pragma', 'journal_mode=WAL', '--sqlite-pragma', 'synchronous=1'];

/** It listens on 127.0.0.1: with another address, its own parts search for each other at the wrong one. */
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
      // Its own orderly end takes five seconds, and writes nothing that isn't already in the file.
      stopSignal: 'SIGKILL',
    },
    note,
  );
}

/** The frontend listens before its namespace and our search attributes exist. */
async function isNamespaceReady(address: string): Promise<boolean> {
  const connection = await Connection.connect({ address, connectTimeout: 2000 });
  try {
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: 'default' });
    return searchAttributes.every((name) => customAttributes?.[name] !== undefined);
  } finally {
    await connection.close();
  }
}
