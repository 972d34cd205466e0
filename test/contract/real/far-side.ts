import { createInterface } from 'node:readline';
import { isCrash } from '../../../activities/host/crash-guard.ts';
import { createHostActivities } from '../../../activities/host/index.ts';
import { openHost } from '../../../drivers/host/open-host.ts';
import { readConfig } from '../../../model/config.ts';
import { BerthError } from '../../../model/errors.ts';
import { openLog } from '../../../model/log.ts';
import { newAttempt } from '../attempt.ts';
import { drainStream, pack, unpack } from './wire.ts';

/**
 * Runs inside a host's namespaces and executes the calls that the test writes to standard input, as lines of JSON: of a
 * port, or of an activity where the port is null.
 */
const log = openLog('test', 'error');
const machines = (process.env.TEST_MACHINES ?? '').split(' ').filter((address) => address !== '');
const ports = await openHost(readConfig(['host'], process.env).host, [], { others: () => machines }, log);
const activities = createHostActivities(ports, isCrash(process.env.BERTH_PREVIOUS_END ?? ''));

interface CallRequest {
  id: number;
  port: string | null;
  method: string;
  args: unknown[];
}

type Call = (...args: unknown[]) => unknown;

async function perform({ port, method, args }: CallRequest): Promise<unknown> {
  if (port === null) {
    const activity = (activities as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>)[method]!;
    return newAttempt().run(activity, ...args);
  }
  const target = (ports as unknown as Record<string, Record<string, Call>>)[port]!;
  return drainStream(await target[method]!(...args));
}

const send = (message: object): void => {
  process.stdout.write(`${pack(message)}\n`);
};
createInterface({ input: process.stdin })
  .on('line', (line) => {
    const request = unpack(line) as CallRequest;
    perform(request).then(
      (result) => send({ id: request.id, result: result ?? null }),
      (error: unknown) =>
        send({ id: request.id, error: { code: error instanceof BerthError ? error.code : 'thrown', message: String(error) } }),
    );
  })
  .on('close', () => process.exit(0));
send({ id: 0, result: 'ready' });
