import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Connection } from '@temporalio/client';
import { queuePollRates } from '../../infra/site/temporal.ts';
import { freePort, startService, untilReady } from './child.ts';

export interface RunningTemporal {
  /** host:port of its gRPC endpoint. */
  address: string;
  stop(): Promise<void>;
}

/**
 * Starts a Temporal development server without its UI. Takes about 1 s; `temporal` must be on PATH. Its database is a file:
 * an in-memory database is lost with its one connection, and a statement that exceeds its deadline ends that connection, as
 * happened on a machine with a load of 13; every namespace is lost with it.
 * @param options further ones of `temporal server start-dev`
 */
export async function startTemporalServer(options: readonly string[] = []): Promise<RunningTemporal> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await startOnce(options);
    } catch (error) {
      if (attempt === attempts || !(error instanceof Error) || !error.message.includes('address already in use')) throw error;
    }
  }
}

/** Its own parts listen on ports that it found free a moment before; a connection of another process may have one since. */
const attempts = 3;

/**
 * Half of a saga's processor time is this server's. One thread for its Go code, and a garbage collection only when it has
 * taken this much memory, leave a quarter less: 3.0 s instead of 4.2 s for 400 workflows that are started and terminated.
 */
const goRuntime = ['GOMAXPROCS=1', 'GOGC=off', 'GOMEMLIMIT=1GiB'];

/**
 * Each poll of a queue walks over all tasks since its last acknowledgement, finished ones included: 12 % of the server's
 * processor time at its default of 30 s.
 */
const queueAcknowledgements = ['transfer', 'timer', 'outbound', 'visibility'].flatMap((queue) => [
  '--dynamic-config-value',
  `history.${queue}ProcessorUpdateAckInterval="1s"`,
]);

async function startOnce(options: readonly string[]): Promise<RunningTemporal> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-test-temporal-'));
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const argv = [
    'temporal',
    'server',
    'start-dev',
    '--headless',
    '--db-filename',
    join(folder, 'temporal.db'),
    // No data of a test run has to survive a power cut.
    '--sqlite-pragma',
    'journal_mode=WAL',
    '--sqlite-pragma',
    'synchronous=0',
    '--ip',
    '127.0.0.1',
    '--port',
    String(port),
    '--log-level',
    'error',
  ];
  // An orderly end would save nothing, and would take a second.
  const service = startService(
    ['env', ...goRuntime, ...argv, ...options, ...queuePollRates, ...queueAcknowledgements],
    'SIGKILL',
  );
  const stop = async (): Promise<void> => {
    await service.stop();
    await rm(folder, { recursive: true, force: true });
  };
  const connection = Connection.lazy({ address });
  try {
    await untilReady(service, 'Temporal', () => answers(connection));
    return { address, stop };
  } catch (error) {
    await stop();
    throw error;
  } finally {
    await connection.close();
  }
}

async function answers(connection: Connection): Promise<void> {
  await connection.withDeadline(Date.now() + 1000, () => connection.workflowService.describeNamespace({ namespace: 'default' }));
}
