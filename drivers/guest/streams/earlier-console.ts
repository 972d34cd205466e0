import { z } from 'zod';
import { ConsolePlace, maxTailBytes } from '../../../model/streams/console.ts';

/** A part of a file of a console's log, of a host where the VM was before. */
export interface ConsoleSegment {
  file: string;
  /** Where in that file it begins. */
  at: number;
  bytes: Buffer;
}

/** A VM that moves all day keeps the last ones. */
const maxSegments = 64;
/** The line of JSON before the bytes. */
export const maxHeaderBytes = 16 * 1024;

const Header = z.strictObject({
  segments: z
    .array(z.strictObject({ file: ConsolePlace.shape.file, at: ConsolePlace.shape.at, bytes: z.int().min(1).max(maxTailBytes) }))
    .max(maxSegments),
});

/** Where the bytes of each segment are in the file. */
export type SegmentPosition = Omit<ConsoleSegment, 'bytes'> & { start: number; length: number };

/** A file of a console's history: what it has of each log, and then the bytes. Of too many segments the last ones. */
export function encodeSegments(all: readonly ConsoleSegment[]): Buffer {
  const segments = all.filter(({ bytes }) => bytes.length > 0).slice(-maxSegments);
  const header = { segments: segments.map(({ file, at, bytes }) => ({ file, at, bytes: bytes.length })) };
  return Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...segments.map(({ bytes }) => bytes)]);
}

/**
 * Reads the header of such a file; null: it is none.
 * @param beginning its first bytes, `maxHeaderBytes` of them where it has as many
 * @param totalBytes of the file
 */
export function readSegments(beginning: Buffer, totalBytes: number): SegmentPosition[] | null {
  const headerBytes = beginning.subarray(0, maxHeaderBytes).indexOf('\n') + 1;
  const header = parseHeader(beginning.toString('utf8', 0, headerBytes));
  if (header === null) return null;
  let start = headerBytes;
  const positions = header.segments.map(({ file, at, bytes }) => {
    const position = { file, at, start, length: bytes };
    start += bytes;
    return position;
  });
  return start === totalBytes && start - headerBytes <= maxTailBytes ? positions : null;
}

function parseHeader(text: string): z.infer<typeof Header> | null {
  try {
    return Header.safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}
