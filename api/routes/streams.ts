import { z } from 'zod';
import { acceptSession } from '../../ledger/vms/accept-session.ts';
import { findTaskVm, findVm, type VmRecord } from '../../ledger/vms/read-vms.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { hostProtocol } from '../../model/streams/channels.ts';
import { bodyBytes, type StreamRequest, textsProblem } from '../../model/streams/frames.ts';
import type { ApiDeps } from '../deps.ts';
import { streamed } from '../http/answer.ts';
import { visibleOwner } from '../http/auth.ts';
import { type Call, type Operation, operation } from '../http/operation.ts';
import { acceptWebSocket, requireWebSocket } from '../http/upgrade.ts';
import { Id } from '../schemas/common.ts';
import { ExecQuery, ForwardQuery, TaskExecQuery } from '../schemas/streams.ts';
import { newSession } from '../streams/sessions.ts';

const problems = [
  'not-found',
  'conflict',
  'upgrade-required',
  'forbidden',
  'guest-program-missing',
  'command-not-started',
  'host-unavailable',
  'host-busy',
  'unavailable',
] as const;

const answers = { 101: { description: 'The session has begun, or goes on' } };

const channelsText =
  "A WebSocket with the channels of Kubernetes' `v5.channel.k8s.io`: the first byte of each message is 0 for the input, 1 and 2 for the outputs, 3 for the status at the end, 4 for the terminal's size, 255 for the end of a channel. With `v1.stream.berth`, 5 tells the session's id and what was read of its input, and takes signals; such a client resumes a session by `session` and `after` (docs/exec.md).";

/** Of every command. */
export const baseEnv = [
  'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  'HOME=/root',
  'USER=root',
  'SHELL=/bin/bash',
  'LANG=C.UTF-8',
];
const terminalEnv = ['TERM=xterm-256color'];

/** What a request begins; `bad-request` where its parameters can't be a frame. */
export function commandOf(query: z.output<typeof ExecQuery>, folder: string): StreamRequest {
  const { command, tty, env, rows, cols, timeoutS } = query;
  if (command === undefined) throw new BerthError('bad-request', 'Expected the parameter command, or session');
  if (env.some((entry) => !/^[A-Za-z_]\w*=/.test(entry))) throw invalid('env', 'an entry that is not NAME=VALUE');
  const request: StreamRequest = {
    kind: tty ? 'terminal' : 'pipes',
    size: { rows, cols },
    timeoutS,
    folder,
    env: [...baseEnv, ...(tty ? terminalEnv : []), ...env],
    argv: command,
  };
  const problem = textsProblem(request);
  if (problem !== null) throw invalid(problem.of, problem.why);
  return request;
}

const invalid = (parameter: string, found: string): BerthError =>
  new BerthError('bad-request', `The parameter ${parameter} can't be used: found ${found}`, {
    fields: [{ pointer: `query.${parameter}`, detail: `found ${found}` }],
  });

/** A VM that has no guest, or will have none soon, is not waited for. */
const reachable: ReadonlySet<string> = new Set(['running', 'migrating']);

export function requireReachable({ id, state }: VmRecord): void {
  if (!reachable.has(state)) throw new BerthError('conflict', `VM ${id} is ${state}; only one that runs can be connected to`);
}

interface Begun {
  vm: VmRecord;
  request: () => StreamRequest;
  resumed: { session?: string | undefined; after: number };
  hasInput: boolean;
}

export function streamRoutes(deps: ApiDeps): Operation[] {
  const { ledger, sessions, clock } = deps;

  async function open(
    { req, res, caller }: Call<unknown, unknown, unknown>,
    { vm, request, resumed, hasInput }: Begun,
  ): Promise<typeof streamed> {
    const begins = resumed.session === undefined ? request() : null;
    const session = resumed.session ?? newSession();
    requireReachable(vm);
    await sessions.open(req, res, caller, {
      vm: { id: vm.id as VmId, ownerId: vm.ownerId },
      request: begins,
      session,
      after: begins === null ? resumed.after : 0,
      hasInput,
      accept: async () => {
        if (begins === null) return;
        const { kind } = begins;
        await acceptSession(ledger, { vm: vm.id as VmId, key: caller.keyId, session, kind, nowMs: clock() });
      },
    });
    return streamed;
  }

  return [
    operation({
      method: 'get',
      path: '/v1/vms/{id}/exec',
      id: 'execInVm',
      tag: 'vms',
      summary: 'Run a command in a VM, with a terminal or with its input and outputs',
      description: channelsText,
      access: 'client',
      params: Id,
      query: ExecQuery,
      answers,
      problems: [...problems],
      handle: async (call) => {
        const vm = await findVm(ledger, visibleOwner(call.caller), call.params.id);
        const folder = vm.taskId === null ? '/root' : '/home/task';
        const { query } = call;
        return open(call, { vm, request: () => commandOf(query, folder), resumed: query, hasInput: query.stdin || query.tty });
      },
    }),
    operation({
      method: 'get',
      path: '/v1/tasks/{id}/exec',
      id: 'execInTask',
      tag: 'tasks',
      summary: "Run a command in one of a task's VMs, beside the task's own",
      description: channelsText,
      access: 'client',
      params: Id,
      query: TaskExecQuery,
      answers,
      problems: [...problems],
      handle: async (call) => {
        const { query } = call;
        const vm = await findTaskVm(ledger, visibleOwner(call.caller), call.params.id, query.node);
        const request = () => commandOf(query, '/home/task');
        return open(call, { vm, request, resumed: query, hasInput: query.stdin || query.tty });
      },
    }),
    operation({
      method: 'get',
      path: '/v1/vms/{id}/forward',
      id: 'forwardToVm',
      tag: 'vms',
      summary: 'Connect to a TCP port of a VM',
      description: `What the client sends on channel 0 goes to the port, and what comes from there is on channel 1. ${channelsText}`,
      access: 'client',
      params: Id,
      query: ForwardQuery,
      answers,
      problems: [...problems],
      handle: async (call) => {
        const { query } = call;
        const vm = await findVm(ledger, visibleOwner(call.caller), call.params.id);
        const request = (): StreamRequest => {
          if (query.port === undefined) throw new BerthError('bad-request', 'Expected the parameter port, or session');
          const size = { rows: 0, cols: 0 };
          return { kind: 'connection', size, timeoutS: 0, folder: '/', env: [], argv: [String(query.port)] };
        };
        return open(call, { vm, request, resumed: query, hasInput: true });
      },
    }),
  ];
}

/** Where host workers connect, for a session of a client of this process. */
export function hostStreamRoutes({ sessions }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/internal/streams/{id}',
      id: 'connectStream',
      tag: 'internal',
      summary: "A host's end of a session; with the token of its order",
      access: 'open',
      params: z.strictObject({ id: z.string().max(64) }),
      answers: { 101: { description: 'Connected' } },
      problems: ['forbidden', 'upgrade-required'],
      handle: async ({ req, res, params: { id } }) => {
        const protocol = requireWebSocket(req, [hostProtocol]);
        const take = sessions.links.admit(id, req.get('berth-stream-token') ?? '');
        take(await acceptWebSocket(req, res, protocol, bodyBytes));
        return streamed;
      },
    }),
  ];
}
