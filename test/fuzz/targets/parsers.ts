import { consoleRange } from '../../../api/console.ts';
import { contentRange } from '../../../api/http/content-range.ts';
import { jsonBounds, refuseUnboundedJson } from '../../../api/http/json-bounds.ts';
import { readDiskHeader } from '../../../drivers/disk/disk-header.ts';
import { AgentError, openGuestAgent } from '../../../drivers/guest/guest-agent.ts';
import { parseJobStatus } from '../../../drivers/guest/guest-job.ts';
import { BerthError, type ErrorCode } from '../../../model/errors.ts';
import { PatternError, parsePattern } from '../../../model/outputs/pattern-syntax.ts';
import { Selection } from '../../../model/outputs/patterns.ts';
import { TaskSpec } from '../../../model/task.ts';
import { VmRequest } from '../../../model/vm-request.ts';
import { changeBytes } from '../random.ts';
import { type FuzzTarget, requireShortMessage, signatureOf, Wrong } from '../target.ts';
import { textTarget } from './text-target.ts';

/** The outcome of an act that may fail with these codes alone, each with a short message. */
async function outcomeOf(act: () => unknown, codes: readonly ErrorCode[]): Promise<string> {
  try {
    return signatureOf(JSON.stringify(await act()) ?? 'nothing');
  } catch (error) {
    if (error instanceof AgentError) requireShortMessage(error.message);
    else if (error instanceof BerthError && codes.includes(error.code)) requireShortMessage(error.message);
    else throw error;
    return signatureOf(error.message);
  }
}

const statusLines = [
  'exit 0 0 0 1.0 2.5 100\n',
  'exit 137 0 0 1.0 2.5 750 9 4000 250 17\n',
  'exit 143 1 0 1.5 2.25\n',
  'absent\n',
  'directory\n',
  'stopped\n',
];

export const guestStatusTarget = (): FuzzTarget =>
  textTarget(statusLines, (text) =>
    outcomeOf(() => {
      const end = parseJobStatus(text, 'true');
      if (end?.kind !== 'exited') return end?.kind ?? null;
      const { exitCode, seconds, logBytes, signal, tail } = end;
      if (!Number.isInteger(exitCode) || exitCode < 0 || exitCode > 999 || !Number.isFinite(seconds))
        throw new Wrong(`a status of ${exitCode} and ${seconds} s`);
      if (typeof signal === 'number' && (signal < 1 || signal > 64 || exitCode !== 128 + signal))
        throw new Wrong(`signal ${signal} with ${exitCode}`);
      if (tail !== null && !(Object.values(tail).every(Number.isSafeInteger) && tail.from < Math.max(1, tail.bytes)))
        throw new Wrong(`a tail of ${JSON.stringify(tail)}`);
      if (logBytes !== null && !Number.isSafeInteger(logBytes)) throw new Wrong(`a log of ${logBytes} bytes`);
      return end.kind;
    }, ['guest-invalid']),
  );

const agentCodes = ['hypervisor', 'host-busy'] as const;

export const agentReplyTarget = (): FuzzTarget =>
  textTarget(
    [
      '{"return":{}}',
      '{"return":{"pid":7}}',
      '{"return":{"exited":true,"exitcode":3,"out-data":"aGVsbG8=","err-data":"d29ybGQ="}}',
      '{"return":{"exited":true,"signal":9}}',
      '{"return":1000}',
      '{"return":{"count":5,"buf-b64":"aGVsbG8=","eof":true}}',
      '{"return":"frozen"}',
      "!error: internal error: unable to execute QEMU agent command 'guest-file-open': No such file or directory",
    ],
    async (text) => {
      const answer = text.startsWith('!') ? { ok: false as const, error: text.slice(1) } : { ok: true as const, output: text };
      const agent = openGuestAgent({ call: async () => answer as never });
      const limit = 10;
      const calls: [string, () => Promise<unknown>][] = [
        ['ping', () => agent.ping('vm')],
        [
          'status',
          async () => {
            const status = await agent.execStatus('vm', 7);
            if (status !== null && (!Number.isInteger(status.exitCode) || status.exitCode < 0 || status.exitCode > 255))
              throw new Wrong(`exit code ${status.exitCode}`);
            return status === null ? 'runs' : 'ended';
          },
        ],
        [
          'read',
          async () => {
            const bytes = await agent.readFile('vm', '/x', 1, limit);
            if (bytes !== null && bytes.length > limit) throw new Wrong(`${bytes.length} bytes of ${limit}`);
            return bytes === null ? 'absent' : 'bytes';
          },
        ],
        ['freeze', () => agent.freeze('vm', ['/'])],
        ['frozen', () => agent.isFrozen('vm')],
      ];
      const outcomes = [];
      for (const [name, act] of calls) outcomes.push(`${name}: ${await outcomeOf(act, agentCodes)}`);
      return outcomes.join('; ');
    },
  );

const bodies = {
  task: {
    name: 't',
    image: 'i',
    command: ['sh', '-c', 'x'],
    env: { A: 'b' },
    inputs: [{ path: 'in/x', file: 'file_1' }],
    outputs: ['out/*', '!out/**/*.tmp'],
    lease: { kind: 'reservation', startAt: '2026-11-21T12:00:00Z', durationS: 60 },
    timeoutS: 60,
  },
  vm: {
    name: 'web',
    image: 'i',
    resources: { vcpus: 1, memoryMiB: 256, diskMiB: 512 },
    files: [{ path: '/opt/x', file: 'file_1' }],
    firstBoot: ['true'],
  },
};

/** How deep a value nests and how many values it has, counted on the value. */
function measureValue(value: unknown): { depth: number; values: number } {
  if (typeof value !== 'object' || value === null) return { depth: 0, values: 1 };
  const inner = Object.values(value).map(measureValue);
  return {
    depth: 1 + Math.max(0, ...inner.map(({ depth }) => depth)),
    values: 1 + inner.reduce((sum, { values }) => sum + values, 0),
  };
}

/** The bounds on a body before it is parsed hold for what the parser makes of it, and its check ends with errors, not with a throw. */
export const jsonBodyTarget = (): FuzzTarget =>
  textTarget([JSON.stringify(bodies.task), JSON.stringify(bodies.vm), '[[[[]]]]', '{"a":[1,2,{"b":null}]}'], async (text) => {
    let value: unknown;
    try {
      refuseUnboundedJson(null as never, null as never, Buffer.from(text));
    } catch (error) {
      return String((error as { type?: string }).type);
    }
    try {
      value = JSON.parse(text);
    } catch {
      return 'no JSON';
    }
    const { depth, values } = measureValue(value);
    if (depth > jsonBounds.depth || values > jsonBounds.values) throw new Wrong(`${values} values, ${depth} deep, have passed`);
    const [task, vm] = [TaskSpec.safeParse(value), VmRequest.safeParse(value)];
    const reported = [task, vm].map(({ error }) =>
      [...new Set(error?.issues.map(({ path, code }) => `${path[0]?.toString() ?? ''} ${code}`))].sort().join(),
    );
    return signatureOf(reported.join('; '));
  });

export const patternTarget = (): FuzzTarget =>
  textTarget(['out/*', 'out/**/*.txt', '!out/**', 'a[a-z]?\\[1]', '*a*a*a*a*b', 'out/\\xff/', '**/**/**/x'], async (text) => {
    try {
      parsePattern(text);
    } catch (error) {
      if (error instanceof PatternError) return signatureOf(error.message);
      throw error;
    }
    const selection = new Selection([text, 'out/**']);
    const matched = [text, 'out/a', `${'a'.repeat(200)}/b`, 'out/\\xff/x'].map((path) => selection.match(path).length);
    return `pattern ${matched.join()}`;
  });

/** Range of a console, Content-Range of a log; the second line is the Content-Length. Downloads' ranges are read by Express. */
export const rangeTarget = (): FuzzTarget =>
  textTarget(['bytes=0-99\n', 'bytes=-100\n', 'bytes=7-\n', 'bytes 0-5/*\n6', 'bytes 100-199/*\n100'], async (text) => {
    const [header = '', length = ''] = text.split('\n');
    const req = { get: (name: string) => (name === 'content-length' ? length : header) } as never;
    const sizes = Object.values(consoleRange(req, 1000));
    if (!sizes.every((size) => Number.isSafeInteger(size) && size >= 0)) throw new Wrong(`a range of ${sizes.join()}`);
    const logRange = await outcomeOf(() => {
      const range = contentRange(req);
      if (!Number.isSafeInteger(range.from) || range.from < 0 || range.length !== Number(length))
        throw new Wrong(`a range of ${range.from}`);
      return 'bytes';
    }, ['bad-request', 'too-large']);
    return `${sizes.length} ${logRange}`;
  });

const limitBytes = 2 ** 40;

/** A header of version 3 with a cluster for each table, as qemu-img writes it. */
function qcow2Header(): Buffer {
  const head = Buffer.alloc(1024);
  head.write('QFI\xfb', 'latin1');
  head.writeUInt32BE(3, 4);
  head.writeUInt32BE(16, 20);
  head.writeBigUInt64BE(BigInt(2 ** 30), 24);
  head.writeUInt32BE(2, 36);
  head.writeBigUInt64BE(0x30000n, 40);
  head.writeBigUInt64BE(0x10000n, 48);
  head.writeUInt32BE(1, 56);
  head.writeUInt32BE(4, 96);
  head.writeUInt32BE(112, 100);
  head.writeUInt32BE(0x6803f857, 112);
  head.writeUInt32BE(48, 116);
  return head;
}

export function createQcow2Target(): FuzzTarget {
  const places = Array.from({ length: 200 }, (_, at) => at);
  return {
    corpus: async () => [qcow2Header(), Buffer.alloc(512)],
    change(random, input) {
      const copy = Buffer.from(input);
      for (let changes = 1 + random.below(4); changes > 0; changes -= 1)
        changeBytes(
          random,
          copy,
          places.filter((at) => at < copy.length),
        );
      return random.below(20) === 0 ? copy.subarray(0, 1 + random.below(copy.length)) : copy;
    },
    run: (input) =>
      outcomeOf(async () => {
        const read = async (offset: number, length: number) => input.subarray(offset, offset + length);
        const { format, virtualBytes } = await readDiskHeader(read, 8 * 65_536, limitBytes);
        if (!(virtualBytes > 0 && virtualBytes <= limitBytes && virtualBytes % 512 === 0))
          throw new Wrong(`a disk of ${virtualBytes} bytes`);
        if (format === 'qcow2' && (input.readBigUInt64BE(8) !== 0n || input.readUInt32BE(60) !== 0))
          throw new Wrong('a backing file or a snapshot has passed');
        return format;
      }, ['image-refused']),
  };
}
