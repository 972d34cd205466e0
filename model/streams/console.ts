import { z } from 'zod';

/**
 * A place in what a guest has written to its serial port: in which file of which host, and where in it. Files are told apart by
 * host, inode and time of birth: virtlogd begins a new one when one is full, and a VM that moves begins one at its new host.
 */
export const ConsolePlace = z.strictObject({
  file: z.string().regex(/^[\w.-]{1,128}$/),
  at: z.int().min(0),
});
export type ConsolePlace = z.infer<typeof ConsolePlace>;

/** As a parameter of a request: `file:at`. */
export const placeText = ({ file, at }: ConsolePlace): string => `${file}:${at}`;
export function parsePlace(text: string): ConsolePlace | null {
  const [, file, at] = /^(.*):(\d{1,15})$/.exec(text) ?? [];
  return ConsolePlace.safeParse({ file, at: Number(at) }).data ?? null;
}

/** What a client is shown of what was written before it came, at most. */
export const maxTailBytes = 2 ** 20;

/** To the host first, and each time the client wants to write. Binary messages are what the client types. */
export const ConsoleOrder = z.object({
  place: ConsolePlace.nullable(),
  tailBytes: z.int().min(0).max(maxTailBytes),
  write: z.boolean(),
});
/** From the host: where the binary messages after this one are from, and whether this client writes. */
export const ConsoleReport = z.union([z.strictObject({ place: ConsolePlace }), z.strictObject({ writing: z.boolean() })]);

/** From the API to a client of Berth, on the channel `control`. */
export const ConsoleState = z.object({ place: z.string().optional(), writing: z.boolean().optional() });
/** From the client: it takes the keyboard over. */
export const ConsoleControl = z.strictObject({ write: z.literal(true) });
