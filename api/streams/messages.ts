import { channelMessage } from '../../model/streams/channels.ts';

/** Close codes of RFC 6455. */
export const closeCodes = { normal: 1000, protocolError: 1002, tooBig: 1009, serverError: 1011 } as const;

export const jsonMessage = (channel: number, value: object): Buffer =>
  channelMessage(channel, Buffer.from(JSON.stringify(value)));

/** What a client's JSON says; null: it is none, or of another form. */
export function parseMessage<T>(schema: { safeParse(value: unknown): { success: boolean; data?: T } }, bytes: Buffer): T | null {
  try {
    return schema.safeParse(JSON.parse(bytes.toString())).data ?? null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
