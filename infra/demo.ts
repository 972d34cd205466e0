import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { type Site, startSite } from './site/site.ts';

/**
 * `npm run demo`: starts a site of three hosts and runs the main case on it: a text is uploaded, a VM counts its words
 * while the worker of its host is killed and the VM migrates to another host, the count is downloaded and compared with
 * one made here. Prints each step as it happens; the last line is JSON.
 */
const textPath = '/usr/share/common-licenses/GPL-3';
const passes = 30;
/** Counts repeatedly, with a line each time, so that the run is long enough to inject a failure. */
const script = `mkdir -p out
for pass in $(seq ${passes}); do echo "pass $pass: $(wc -w < in/words) words"; sleep 1; done
wc -w < in/words > out/count`;

interface Task {
  id: string;
  state: string;
  workflowId: string;
  vms: string[];
  hosts: string[];
  exitCode: number | null;
  error: { code: string; message: string } | null;
  outputs: { path: string; file: string; sizeBytes: number; sha256: string }[];
  timeline: { step: string; startedAt: string; endedAt: string | null }[];
  finishedAt: string | null;
}

interface Migration {
  id: string;
  state: string;
  from: string;
  to: string | null;
  downtimeMs: number | null;
  bytes: number;
  error: { code: string; message: string } | null;
}

interface CloudEvent {
  id: string;
  type: string;
  subject: string;
  data: unknown;
}

const startedMs = performance.now();
const logProgress = (text: string): void =>
  console.log(`${((performance.now() - startedMs) / 1000).toFixed(1).padStart(6)} s  ${text}`);

/** A client of the site, with HTTP and an API key like any user's. */
function openClient(api: string, key: string) {
  const call = async (method: string, path: string, body?: string | Uint8Array<ArrayBuffer>): Promise<Response> => {
    const type = typeof body === 'string' ? 'application/json' : 'application/octet-stream';
    const response = await fetch(new URL(path, api), {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { 'content-type': type, 'idempotency-key': crypto.randomUUID() }),
      },
      ...(body === undefined ? {} : { body }),
      signal: AbortSignal.timeout(60_000),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response;
  };
  const json = async <T>(...args: Parameters<typeof call>): Promise<T> => (await (await call(...args)).json()) as T;
  const text = async (path: string): Promise<string> => (await call('GET', path)).text();
  return { json, text };
}
type Client = ReturnType<typeof openClient>;

/** Polls every 100 ms until `answer` returns a value. */
async function pollUntil<T>(what: string, seconds: number, answer: () => Promise<T | null>): Promise<T> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const found = await answer();
    if (found !== null) return found;
    if (Date.now() > deadline) throw new Error(`${what}: not so after ${seconds} s`);
    await delay(100);
  }
}

async function submit(client: Client): Promise<Task> {
  const file = await client.json<{ id: string; sizeBytes: number; sha256: string }>(
    'POST',
    '/v1/files?name=GPL-3',
    new Uint8Array(await readFile(textPath)),
  );
  logProgress(`uploaded ${textPath}: ${file.id}, ${file.sizeBytes} bytes, SHA-256 ${file.sha256.slice(0, 12)}…`);
  const task = await client.json<Task>(
    'POST',
    '/v1/tasks',
    JSON.stringify({
      name: 'count-words',
      image: 'debian-12',
      command: ['sh', '-c', script],
      inputs: [{ path: 'in/words', file: file.id }],
      outputs: ['out/*'],
      resources: { vcpus: 1, memoryMiB: 256, diskMiB: 64 },
      timeoutS: 120,
    }),
  );
  logProgress(`submitted ${task.id}`);
  return task;
}

/** Waits until the command has written its second line, then kills the worker of the host that runs it. */
async function killHostWorker(site: Site, client: Client, id: string): Promise<void> {
  const running = await pollUntil(`${id} to run`, 120, async () => {
    const task = await client.json<Task>('GET', `/v1/tasks/${id}`);
    if (task.finishedAt !== null) throw new Error(`${id} ended before it ran: ${JSON.stringify(task.error)}`);
    const log = task.state === 'running' ? await client.text(`/v1/tasks/${id}/log`) : '';
    return log.includes('pass 2') ? { task, log } : null;
  });
  const host = running.task.hosts[0];
  logProgress(`it runs on ${host}; its log so far: ${running.log.trim().split('\n').at(-1)}`);
  const worker = site.child(`${host}/worker`);
  const pid = worker.pid();
  const before = worker.restarts();
  worker.kill('SIGKILL');
  logProgress(`killed the worker of ${host} with SIGKILL (process ${pid}); the command knows nothing of it`);
  await worker.untilReadyAgain(before, 30_000);
}

/** Migrates the VM to another host while the command runs in it, and prints the duration. */
async function migrateVm(client: Client, id: string): Promise<Migration> {
  const task = await client.json<Task>('GET', `/v1/tasks/${id}`);
  const vm = task.vms[0];
  const requested = await client.json<Migration>('POST', `/v1/vms/${vm}/migrations`, JSON.stringify({ reason: 'the demo' }));
  logProgress(`asked for ${vm} to be moved away from ${requested.from} while it runs: ${requested.id}`);
  const over = await pollUntil(`${requested.id} to end`, 180, async () => {
    const found = await client.json<Migration>('GET', `/v1/migrations/${requested.id}`);
    return found.state === 'succeeded' || found.state === 'rolledBack' ? found : null;
  });
  if (over.state !== 'succeeded') throw new Error(`${over.id} is ${over.state}: ${JSON.stringify(over.error)}`);
  const mib = (over.bytes / 2 ** 20).toFixed(0);
  logProgress(`it runs on ${over.to} now: ${over.downtimeMs} ms of standstill, ${mib} MiB of memory carried over, no image`);
  return over;
}

/** Prints each step as it begins and each change of the state, until the task ends. */
async function follow(client: Client, id: string): Promise<Task> {
  let shown = '';
  return pollUntil(`${id} to end`, 300, async () => {
    const task = await client.json<Task>('GET', `/v1/tasks/${id}`);
    const now = `${task.state}${task.finishedAt === null ? ` (${task.timeline.at(-1)?.step ?? 'not begun'})` : ''}`;
    if (now !== shown) logProgress(now);
    shown = now;
    return task.finishedAt === null ? null : task;
  });
}

async function eventOf(client: Client, id: string): Promise<CloudEvent> {
  for (let after = '0'; ; ) {
    const page = await client.json<{ items: CloudEvent[]; next: string }>('GET', `/v1/events?after=${after}&limit=100`);
    const found = page.items.find((event) => event.subject === id && /succeeded|failed|cancelled/.test(event.type));
    if (found !== undefined) return found;
    if (page.items.length === 0) throw new Error(`${id} has ended, and no event says so`);
    after = page.next;
  }
}

function secondsBySteps(task: Task): Record<string, number> {
  const seconds: Record<string, number> = {};
  for (const { step, startedAt, endedAt } of task.timeline)
    if (endedAt !== null)
      seconds[step] = Math.round((seconds[step] ?? 0) * 1000 + Date.parse(endedAt) - Date.parse(startedAt)) / 1000;
  return seconds;
}

async function countedHere(): Promise<string> {
  const words = (await readFile(textPath, 'utf8')).split(/\s+/).filter((word) => word !== '');
  return String(words.length);
}

async function runDemo(site: Site): Promise<Record<string, unknown>> {
  const client = openClient(site.ready.api, (await readFile(site.ready.clientKeyFile, 'utf8')).trim());
  const accepted = await submit(client);
  logProgress(`see it in Temporal: ${site.ready.temporalUi}/namespaces/default/workflows/${accepted.workflowId}`);
  const disturb = async (): Promise<Migration> => {
    await killHostWorker(site, client, accepted.id);
    return migrateVm(client, accepted.id);
  };
  const [task, migration] = await Promise.all([follow(client, accepted.id), disturb()]);
  const output = task.outputs.find(({ path }) => path === 'out/count');
  if (task.state !== 'succeeded' || output === undefined)
    throw new Error(`${task.id} is ${task.state}: ${JSON.stringify(task.error)}`);
  for (const { path, sizeBytes, sha256 } of task.outputs)
    logProgress(`output ${path}: ${sizeBytes} bytes, SHA-256 ${sha256.slice(0, 12)}…`);
  const counted = (await client.text(`/v1/files/${output.file}/content`)).trim();
  const expected = await countedHere();
  logProgress(`the VM counted ${counted} words; counted here: ${expected}`);
  const event = await eventOf(client, task.id);
  logProgress(`event ${event.type}: ${JSON.stringify(event.data)}`);
  const { id, state, workflowId, hosts, exitCode, outputs } = task;
  return {
    ok: counted === expected,
    task: { id, state, workflowId, hosts, exitCode, outputs, words: Number(counted), expected: Number(expected) },
    migration: {
      id: migration.id,
      state: migration.state,
      from: migration.from,
      to: migration.to,
      downtimeMs: migration.downtimeMs,
      bytes: migration.bytes,
    },
    seconds: secondsBySteps(task),
    event,
  };
}

async function main(): Promise<Record<string, unknown>> {
  const interruption = new AbortController();
  const interrupted = new Promise<never>((_, reject) => {
    interruption.signal.addEventListener('abort', () => reject(interruption.signal.reason));
  });
  interrupted.catch(() => undefined);
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => interruption.abort(new Error(name)));
  const home = process.env.BERTH_HOME ?? '.berth-demo';
  const site = await startSite({ home, hosts: 3, apiPort: 0, signal: interruption.signal, note: logProgress });
  logProgress(`the site is ready: API ${site.ready.api}, Temporal's UI ${site.ready.temporalUi}`);
  try {
    return await Promise.race([runDemo(site), interrupted]);
  } finally {
    logProgress('stopping the site');
    await site.stop();
    logProgress('stopped');
  }
}

const result = await main().catch((error: unknown) => ({
  ok: false,
  error: error instanceof Error ? error.message : String(error),
}));
console.log(JSON.stringify(result));
process.exit(result.ok === true ? 0 : 1);
