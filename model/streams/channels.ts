import { z } from 'zod';

/**
 * The WebSocket messages between a client and the API. A message is binary; its first byte is its channel, as in Kubernetes'
 * v5.channel.k8s.io, of which any client can be used. Berth's own subprotocol has one more channel, by which a client resumes.
 */
export const channels = { stdin: 0, stdout: 1, stderr: 2, status: 3, resize: 4, control: 5, close: 255 } as const;

/** A message to either end: its channel, then its bytes. */
export const channelMessage = (channel: number, bytes: Uint8Array): Buffer => Buffer.concat([Buffer.from([channel]), bytes]);

export const kubernetesProtocol = 'v5.channel.k8s.io';
export const berthProtocol = 'v1.stream.berth';
export const clientProtocols = [berthProtocol, kubernetesProtocol] as const;
/** Between a host worker and the API: each message is the body of a frame. */
export const hostProtocol = 'v1.host-stream.berth';

/** Why a host worker ends its connection; the WebSocket codes of applications begin at 4000. */
export const hostCloseCodes = { lost: 4001, invalid: 4002, replaced: 4003 } as const;

/** The same with a value as JSON. */
export const jsonMessage = (channel: number, value: object): Buffer =>
  channelMessage(channel, Buffer.from(JSON.stringify(value)));

/** The largest message of a client. */
export const messageBytes = 32 * 1024;

/** On the channel `control`, from the API: which session it is, how much of its input the command has, and where its output goes on. */
export const SessionState = z.object({ session: z.string(), input: z.int().min(0), output: z.int().min(0) });
/** From the API afterwards: more of the input was read. */
export const InputRead = z.object({ input: z.int().min(0) });
/** From the client. */
export const ClientControl = z.strictObject({ signal: z.int().min(1).max(64) });

/** A terminal of no size is one that has none yet, as Kubernetes' clients tell it. */
const side = z.int().min(0).max(65_535);
export const Resize = z.object({ Width: side, Height: side });

/** How a session ended, on the channel `status`: a Kubernetes Status. */
export const StreamStatus = z.object({
  status: z.enum(['Success', 'Failure']),
  reason: z.string().optional(),
  message: z.string().optional(),
  details: z.object({ causes: z.array(z.object({ reason: z.string(), message: z.string() })) }).optional(),
});
export type StreamStatus = z.infer<typeof StreamStatus>;

export const successStatus: StreamStatus = { status: 'Success' };

export function exitStatus(code: number, reason: 'NonZeroExitCode' | 'Timeout' = 'NonZeroExitCode'): StreamStatus {
  if (code === 0) return successStatus;
  const message = reason === 'Timeout' ? 'the command was ended after its time-out' : `command terminated with exit code ${code}`;
  return { status: 'Failure', reason, message, details: { causes: [{ reason: 'ExitCode', message: String(code) }] } };
}

/** The exit code that a status tells; null where it tells none. */
export function exitCodeOf({ status, details }: StreamStatus): number | null {
  if (status === 'Success') return 0;
  const found = details?.causes.find(({ reason }) => reason === 'ExitCode')?.message ?? '';
  return /^\d{1,3}$/.test(found) ? Number(found) : null;
}
