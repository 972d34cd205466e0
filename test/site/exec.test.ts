import { readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { afterAll, expect, test } from 'vitest';
import { ConsoleStream } from '../../cli/streams/console-stream.ts';
import { Stream } from '../../cli/streams/stream.ts';
import { until } from '../../infra/site/until.ts';
import { exitCodeOf } from '../../model/streams/channels.ts';
import { isFull } from '../tier.ts';
import { move, moveOver } from './moves.ts';
import { onSharedSite } from './shared-site.ts';
import type { TestSite } from './the-site.ts';

interface VmAnswer {
  id: string;
  state: string;
  host: string;
  hostKey: string | null;
}

let here: TestSite;
/** The VM of all of these tests. */
let id: string;
onSharedSite(async (site) => {
  here = site;
  id = await startVm('talks');
});
afterAll(async () => {
  await here.client.call('DELETE', `/v1/vms/${id}`);
  await until('the VM is removed', 60_000, async () => (await vmOf(id)).state === 'removed');
});

const vmOf = async (id: string): Promise<VmAnswer> => (await here.client.callWithRetry<VmAnswer>('GET', `/v1/vms/${id}`)).body;

/** Runs a command as `berth exec` does. @param onOutput called with the standard output so far */
async function exec(
  vm: string,
  command: string[],
  input: Buffer | null = null,
  onOutput: (output: string) => void = () => undefined,
) {
  const { api, clientKeyFile } = here.site.ready;
  const key = (await readFile(clientKeyFile, 'utf8')).trim();
  const parts: Record<1 | 2, string> = { 1: '', 2: '' };
  const stream = new Stream(
    { api, key },
    {
      path: `/v1/vms/${vm}/exec`,
      query: [...command.map((word): [string, string] => ['command', word]), ['stdin', String(input !== null)]],
      input: input === null ? null : Readable.from([input]),
      onOutput: async (channel, bytes) => {
        parts[channel] += Buffer.from(bytes).toString('latin1');
        if (channel === 1) onOutput(parts[1]);
      },
    },
  );
  const status = await stream.run();
  return { output: parts[1], error: parts[2], exitCode: exitCodeOf(status), status };
}

/** Follows a console until `onText`, which is called with all that it has written, closes it. */
async function watchConsole(vm: string, onText: (stream: ConsoleStream, text: string) => void, tailBytes = 200): Promise<void> {
  const { api, clientKeyFile } = here.site.ready;
  const key = (await readFile(clientKeyFile, 'utf8')).trim();
  let text = '';
  const stream = new ConsoleStream(
    { api, key },
    {
      vm,
      tailBytes,
      write: true,
      onOutput: async (bytes) => {
        text += Buffer.from(bytes).toString();
        onText(stream, text);
      },
      onWriting: () => undefined,
    },
  );
  await stream.run();
}

/** One whose guest is set up: a VM that moves before that is set up there once more. */
async function startVm(name: string): Promise<string> {
  const order = { name, image: 'debian-12', resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 } };
  const { id } = (await here.client.call<VmAnswer>('POST', '/v1/vms', order)).body;
  await until('the VM is set up', 150_000, async () => (await vmOf(id)).hostKey !== null);
  return id;
}

async function kill(name: string): Promise<void> {
  const child = here.site.child(name);
  const restarts = child.restarts();
  child.kill('SIGKILL');
  await child.untilReadyAgain(restarts, 60_000);
}

test('a command has its outputs and its exit code; its transcript is whole after a live move and SIGKILL of each worker', async () => {
  const ends = await exec(id, ['sh', '-c', 'echo out; echo err >&2; exit 7']);
  expect(ends).toMatchObject({ output: 'out\n', error: 'err\n', exitCode: 7 });
  const input = Buffer.alloc(500_000, 'seventeen letters');
  expect((await exec(id, ['cat'], input)).output.length).toBe(input.length);

  const lines = isFull ? 3000 : 1500;
  const counter = `i=0; while [ $i -lt ${lines} ]; do echo $i; i=$((i+1)); [ $((i%20)) = 0 ] && sleep 0.2; done`;
  let printed = '';
  const counting = exec(id, ['sh', '-c', counter], null, (output) => {
    printed = output;
  });
  await expect.poll(() => printed.length, { timeout: 20_000 }).toBeGreaterThan(50);
  const from = (await vmOf(id)).host;
  const moved = await moveOver(here, (await move(here, id)).id);
  expect(moved, JSON.stringify(moved)).toMatchObject({ state: 'succeeded', from });
  await kill('api');
  await kill('control');
  await kill(`${(await vmOf(id)).host}/worker`);
  const { output, exitCode } = await counting;
  expect(exitCode).toBe(0);
  expect(output).toBe(Array.from({ length: lines }, (_, line) => `${line}\n`).join(''));
});

test('a console reads what a client types, and each line is seen once over live moves and SIGKILL of workers', async () => {
  const lines = isFull ? 300 : 150;
  const moves = isFull ? 2 : 1;
  const counter = `i=0; while [ $i -lt ${lines} ]; do echo line-$i; i=$((i+1)); sleep 0.1; done; echo over`;
  const counts = exec(id, ['sh', '-c', `exec > /dev/ttyS0 3< /dev/ttyS0; echo ready; read -r x <&3; echo "got $x"; ${counter}`]);
  let text = '';
  const watched = watchConsole(id, (stream, seen) => {
    // Before its port is open in the guest, nothing that is typed is kept.
    if (text === '' && seen.includes('ready')) stream.type(Buffer.from('typed by a client\r'));
    if (seen.includes('ready')) text = seen;
    if (/over\r?\n/.test(seen)) stream.close();
  });
  // A console is read where the VM is: the viewer has to have arrived before the VM goes on.
  const seesMore = async () => {
    const before = text.length;
    await expect.poll(() => text.length, { timeout: 30_000 }).toBeGreaterThan(before + 20);
  };
  for (let times = 0; times < moves; times += 1) {
    await seesMore();
    expect(await moveOver(here, (await move(here, id)).id)).toMatchObject({ state: 'succeeded' });
    await kill(`${(await vmOf(id)).host}/worker`);
  }
  await watched;
  await counts;
  expect(text).toContain('got typed by a client');
  const counted = Array.from({ length: lines }, (_, line) => `line-${line}`);
  expect(text.match(/line-\d+/g)).toEqual(counted);

  // Another client comes after all of that.
  let late = '';
  await watchConsole(
    id,
    (stream, seen) => {
      late = seen;
      if (/over\r?\n/.test(seen)) stream.close();
    },
    65_536,
  );
  expect(late).toContain('got typed by a client');
  expect(late.match(/line-\d+/g)).toEqual(counted);
  const page = await here.client.call<string>('GET', `/v1/vms/${id}/console?tail=65536`);
  expect(String(page.body).match(/line-\d+/g)).toEqual(counted);
});
