import { Connection } from '@temporalio/client';
import { queuePollRates } from '../../infra/site/temporal.ts';
import { freePort, startService, untilReady } from './child.ts';

export interface RunningTemporal {
  /** host:port of its gRPC. */
  address: string;
  stop(): Promise<void>;
}

/** Starts a Temporal development server in memory, without its UI. Takes about 1 s; `temporal` must be on PATH. */
export async function startTemporalServer(): Promise<RunningTemporal> {
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const argv = [
    'temporal',
    'server',
    'start-dev',
    '--headless',
    '--ip',
    '127.0.0.1',
    '--port',
    String(port),
    '--log-level',
    'error',
  ];
  // In memory: there is nothing that an orderly end would save, and it would take a second.
  const service = startService(['env', ...argv, ...queuePollRates], 'SIGKILL');
  const connection = Connection.lazy({ address });
  try {
    await untilReady(service, 'Temporal', () => answers(connection));
    return { address, stop: () => service.stop() };
  } catch (error) {
    await service.stop();
    throw error;
  } finally {
    await connection.close();
  }
}

async function answers(connection: Connection): Promise<void> {
  await connection.withDeadline(Date.now() + 1000, () => connection.workflowService.describeNamespace({ namespace: 'default' }));
}
