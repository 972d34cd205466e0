import type { Random } from './random.ts';

/** A parser of strangers' data. An input is bytes; `run` throws an error of any kind when the parser did wrong. */
export interface FuzzTarget {
  /** Inputs that the parser accepts, from which others are made. */
  corpus(): Promise<Buffer[]>;
  change(random: Random, input: Buffer, corpus: readonly Buffer[]): Buffer;
  /** What came of it, without numbers: an input with an outcome that is new joins the corpus. */
  run(input: Buffer): Promise<string>;
  close?(): Promise<void>;
}

/** The longest that one input may take: a hundred times what any of them takes on an idle machine. */
export const inputDeadlineMs = 5000;

/** What the parser did wrong. */
export class Wrong extends Error {}

export const signatureOf = (text: string): string =>
  text
    .replaceAll(/\d+/g, '#')
    .replaceAll(/"[^"]*"/g, '"…"')
    .slice(0, 120);

/** The longest message of an error that may become part of a workflow's history. */
const maxMessageChars = 2000;

export function requireShortMessage(message: string): void {
  if (message.length > maxMessageChars) throw new Wrong(`an error has a message of ${message.length} characters`);
}
