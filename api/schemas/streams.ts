import { z } from 'zod';
import { isSession, replayBytes, textsBytes } from '../../model/streams/frames.ts';

const flag = z.enum(['true', 'false']).transform((text) => text === 'true');
const listed = z.union([z.string(), z.array(z.string())]).transform((value) => (typeof value === 'string' ? [value] : value));
const number = (min: number, max: number) => z.coerce.number().int().min(min).max(max);

/** A session that goes on: its id, which Berth's subprotocol tells, and how much of its output the client has. */
const resumed = {
  session: z
    .string()
    .refine(isSession, { error: 'expected 32 hexadecimal digits' })
    .optional()
    .meta({ description: 'A session that goes on, as the subprotocol `v1.stream.berth` has told its id' }),
  after: number(0, Number.MAX_SAFE_INTEGER)
    .default(0)
    .meta({ description: `Of that session: the bytes of output that the client has. The last ${replayBytes} are kept` }),
};

export const ExecQuery = z.strictObject({
  command: listed.optional().meta({
    description: `The program and its arguments, each a parameter of its own; ${textsBytes} bytes at most, with the environment`,
  }),
  tty: flag.default(false).meta({ description: 'A terminal instead of three pipes; its output is all on channel 1' }),
  stdin: flag.default(false).meta({ description: 'The client sends an input; otherwise the command reads its end at once' }),
  stdout: flag.optional().meta({ description: "Kubernetes' clients send it; both outputs are always sent" }),
  stderr: flag.optional(),
  env: listed.default([]).meta({ description: 'NAME=VALUE, may be repeated' }),
  rows: number(1, 65_535).default(24),
  cols: number(1, 65_535).default(80),
  timeoutS: number(0, 31 * 24 * 3600)
    .default(0)
    .meta({ description: 'After which the guest ends the command, with TERM and five seconds later with KILL. 0: never' }),
  ...resumed,
});

export const TaskExecQuery = ExecQuery.extend({ node: number(0, 9999).default(0) });

export const ForwardQuery = z.strictObject({
  port: number(1, 65_535).optional().meta({ description: 'The TCP port in the guest, at its address 127.0.0.1' }),
  ...resumed,
});
