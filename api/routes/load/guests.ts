import { acceptSession } from '../../../ledger/vms/accept-session.ts';
import { findVm } from '../../../ledger/vms/read-vms.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import { exitCodeOf } from '../../../model/streams/channels.ts';
import type { StreamRequest } from '../../../model/streams/frames.ts';
import type { ApiDeps } from '../../deps.ts';
import { loadCommand, parseTimes } from '../../guests/load-test.ts';
import { parseProcesses, processesCommand, processLimits } from '../../guests/processes.ts';
import { json } from '../../http/answer.ts';
import { visibleOwner } from '../../http/auth.ts';
import { type Call, type Operation, operation } from '../../http/operation.ts';
import { Id } from '../../schemas/common.ts';
import { GuestProcesses, LoadTestOrder, LoadTestResult, loadTestLimits, ProcessesQuery } from '../../schemas/load/guests.ts';
import type { CommandEnd } from '../../streams/collect-output.ts';
import { newSession } from '../../streams/sessions.ts';
import { baseEnv, requireReachable } from '../streams.ts';

const problems = [
  'not-found',
  'conflict',
  'guest-program-missing',
  'command-not-started',
  'guest-invalid',
  'rate-limited',
  'host-unavailable',
  'host-busy',
  'unavailable',
] as const;

/** A guest whose processors are busy starts a command late, and ends it late. */
const slackS = 30;
const timesBytes = 4096;

interface GuestCommand {
  argv: string[];
  timeoutS: number;
  mostBytes: number;
}

export function guestRoutes({ ledger, sessions, clock }: ApiDeps): Operation[] {
  /** In the VM, wherever it moves meanwhile. */
  async function run({ res, caller }: Call<unknown, unknown, unknown>, id: string, command: GuestCommand): Promise<CommandEnd> {
    const vm = await findVm(ledger, visibleOwner(caller), id);
    requireReachable(vm);
    const { argv, timeoutS, mostBytes } = command;
    const session = newSession();
    const size = { rows: 0, cols: 0 };
    const request: StreamRequest = { kind: 'pipes', size, timeoutS, folder: '/', env: baseEnv, argv };
    const order = {
      vm: { id: vm.id as VmId, ownerId: vm.ownerId },
      request,
      session,
      after: 0,
      hasInput: false,
      needsProgram: true,
      accept: () => acceptSession(ledger, { vm: vm.id as VmId, key: caller.keyId, session, kind: 'pipes', nowMs: clock() }),
    };
    return sessions.run(res, caller, order, mostBytes);
  }

  return [
    operation({
      method: 'get',
      path: '/v1/vms/{id}/processes',
      id: 'listProcesses',
      tag: 'load',
      summary: "A guest's own view: its load and its processes",
      description:
        "Through Berth's program in the guest, as a command is (docs/exec.md): it begins a session, which its event says.",
      access: 'client',
      params: Id,
      query: ProcessesQuery,
      answers: { 200: { description: 'The guest is alive, and says this', schema: GuestProcesses } },
      problems: [...problems],
      handle: async (call) => {
        const { params, query } = call;
        const fromMs = clock();
        const { output } = await run(call, params.id, {
          argv: processesCommand(query.seconds),
          timeoutS: Math.ceil(query.seconds) + slackS,
          mostBytes: processLimits.answerBytes,
        });
        const { processes, ...view } = parseProcesses(output.toString('utf8'));
        const items = processes.slice(0, query.limit);
        const nowMs = clock();
        return json(200, {
          at: new Date(nowMs).toISOString(),
          tookS: (nowMs - fromMs) / 1000,
          ...view,
          processes: processes.length,
          items,
        });
      },
    }),
    operation({
      method: 'post',
      path: '/v1/vms/{id}/load',
      id: 'loadVm',
      tag: 'load',
      summary: 'Load a VM, to see what the site does about it',
      description:
        'The answer comes when it has ended. It goes on while the VM moves, and ends with the request: one that is given up ends it in the guest as well. The same Idempotency-Key makes the load again.',
      access: 'client',
      params: Id,
      body: LoadTestOrder,
      answers: { 200: { description: 'It has ended', schema: LoadTestResult } },
      problems: [...problems],
      handle: async (call) => {
        const { params, body } = call;
        const fromMs = clock();
        const startMs = body.startAt === undefined ? null : Date.parse(body.startAt);
        const waitS = startMs === null ? 0 : Math.max(0, Math.ceil((startMs - fromMs) / 1000));
        if (waitS > loadTestLimits.startsWithinS)
          throw new BerthError('bad-request', 'The load is to begin later than in a minute', {
            fields: [{ pointer: '/startAt', detail: `expected a time within ${loadTestLimits.startsWithinS} s` }],
          });
        const { status, output, error } = await run(call, params.id, {
          argv: loadCommand({ ...body, startMs }),
          timeoutS: body.seconds + waitS + slackS,
          mostBytes: timesBytes,
        });
        if (status.reason === 'SessionLost') throw new BerthError('unavailable', status.message ?? 'The session was lost');
        const exitCode = exitCodeOf(status);
        const nowMs = clock();
        const said = error.toString('utf8').slice(0, 500).trim();
        return json(200, {
          kind: body.kind,
          startedAt: new Date(fromMs).toISOString(),
          endedAt: new Date(nowMs).toISOString(),
          seconds: (nowMs - fromMs) / 1000,
          cpuS: parseTimes(output.toString('utf8')),
          exitCode,
          message: exitCode === 0 ? null : said || (status.message ?? null),
        });
      },
    }),
  ];
}
