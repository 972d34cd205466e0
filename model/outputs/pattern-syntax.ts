import { symbolOfByte, symbolsOf } from './names.ts';

/** One place of a name: a character, any one, one of ranges, or any number of any. */
export type Element =
  | { kind: 'symbol'; symbol: number }
  | { kind: 'any' }
  | { kind: 'ranges'; ranges: [number, number][]; negated: boolean }
  | { kind: 'star' };

/** What one name has to match; `deep` is `**`: any number of folders. */
export type Segment = 'deep' | Element[];

export interface Pattern {
  text: string;
  exclude: boolean;
  segments: Segment[];
  /** It names a file: it has no `/` at its end. */
  file: boolean;
  /** A folder that it names is all in it: its last part has no wildcard, or a `/` at its end. */
  whole: boolean;
}

/** Why a text is no pattern, for the one who wrote it. */
export class PatternError extends Error {}

const refused = (why: string): never => {
  throw new PatternError(why);
};

const nameBytes = 255;
export const patternBytes = 512;

/** Characters that a backslash makes ordinary: all ASCII punctuation but the slash, which no name has. */
const escapable = /^[!-.:-@[-`{-~]$/;
/** `?(…)` and its like are groups to other tools. */
const beforeGroup = new Set(['?', '*', '+', '@', '!']);

/**
 * Reads a pattern:
 *
 *     *  ?  [a-z]  [!a-z]   within one name; none of them matches a dot that a name begins with
 *     **                    as a whole part: any number of folders
 *     !PATTERN              excludes
 *     \* \? \[ \] \! \{ …   the character itself;  \xHH  the byte
 *
 * There are no braces, groups or named classes; unescaped, they are refused, since other tools give them a meaning. What no
 * name can match is refused. Throws PatternError.
 */
export function parsePattern(text: string): Pattern {
  if (Buffer.byteLength(text) > patternBytes) refused(`expected at most ${patternBytes} bytes`);
  if (!text.isWellFormed()) refused('expected well-formed Unicode');
  const exclude = text.startsWith('!');
  let body = exclude ? text.slice(1) : text;
  if (body.startsWith('!')) refused('expected one "!" at most at its begin; a name that begins with "!" is written \\!');
  if (exclude && body.startsWith('(')) refused('expected no group: a name that begins with "!(" is written \\!\\(');
  if (body === '') refused('expected a pattern');
  const folder = body.endsWith('/');
  if (folder) body = body.slice(0, -1);
  const segments = splitParts(body).map(parseSegment);
  const whole = folder || isLiteral(segments.at(-1) ?? 'deep');
  return { text, exclude, segments, file: !folder, whole };
}

/** Why a text is refused as a pattern; null: it is one. */
export function patternProblem(text: string): string | null {
  try {
    parsePattern(text);
    return null;
  } catch (error) {
    if (error instanceof PatternError) return error.message;
    throw error;
  }
}

const isLiteral = (segment: Segment): boolean => segment !== 'deep' && segment.every(({ kind }) => kind === 'symbol');

/** An escaped slash is found by the parser of its part, which ends with a backslash. */
function splitParts(body: string): string[] {
  const parts = body.split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..'))
    refused('expected a path relative to /home/task without empty, "." and ".." parts');
  return parts;
}

function parseSegment(part: string): Segment {
  if (/^\*{2,}$/.test(part)) return 'deep';
  const elements = new SegmentParser(part).parse();
  const least = elements.reduce((sum, element) => sum + leastBytes(element), 0);
  if (least > nameBytes) refused(`expected names of at most ${nameBytes} bytes: no longer one exists`);
  if (elements.length <= 2 && elements.every((element) => element.kind === 'symbol' && element.symbol === 0x2e))
    refused('expected no part that is "." or ".."');
  return elements;
}

function leastBytes(element: Element): number {
  if (element.kind === 'star') return 0;
  if (element.kind !== 'symbol' || element.symbol >= 0x110000) return 1;
  return Buffer.byteLength(String.fromCodePoint(element.symbol));
}

class SegmentParser {
  readonly #characters: string[];
  #at = 0;
  readonly #elements: Element[] = [];
  /** Bytes of the literal text so far: `\xc3\xa9` and `é` are one character. */
  #literal: Buffer[] = [];

  constructor(part: string) {
    this.#characters = [...part];
  }

  parse(): Element[] {
    while (this.#at < this.#characters.length) this.#parseOne();
    this.#endLiteral();
    return this.#elements;
  }

  #next(): string | undefined {
    const character = this.#characters[this.#at];
    this.#at += 1;
    return character;
  }

  #peek(): string | undefined {
    return this.#characters[this.#at];
  }

  #parseOne(): void {
    const character = this.#next() ?? '';
    if (beforeGroup.has(character) && this.#peek() === '(')
      refused(`expected no group: ${character}( has no meaning here; the characters themselves are \\${character}\\(`);
    if (character === '{' || character === '}') refused(`expected no braces; the character itself is \\${character}`);
    if (character === '*') this.#push({ kind: 'star' });
    else if (character === '?') this.#push({ kind: 'any' });
    else if (character === '[') this.#push(this.#parseRanges());
    else this.#literal.push(character === '\\' ? this.#parseEscape() : Buffer.from(character));
  }

  /** Stars in a row are one. */
  #push(element: Element): void {
    this.#endLiteral();
    if (element.kind !== 'star' || this.#elements.at(-1)?.kind !== 'star') this.#elements.push(element);
  }

  #endLiteral(): void {
    for (const symbol of symbolsOf(Buffer.concat(this.#literal))) this.#elements.push({ kind: 'symbol', symbol });
    this.#literal = [];
  }

  #parseEscape(): Buffer {
    const character = this.#next();
    if (character === undefined) return refused('expected a character after "\\"');
    if (character === 'x') {
      const digits = `${this.#next() ?? ''}${this.#next() ?? ''}`;
      if (!/^[0-9a-fA-F]{2}$/.test(digits)) refused('expected two hexadecimal digits after "\\x"');
      if (digits === '00') refused('expected no \\x00: no name has it');
      return Buffer.from(digits, 'hex');
    }
    if (!escapable.test(character)) refused(`expected no "\\" before ${JSON.stringify(character)}`);
    return Buffer.from(character);
  }

  /** As POSIX has it, a `]` at the begin is one of the characters. */
  #parseRanges(): Element {
    const negated = this.#peek() === '!' || this.#peek() === '^';
    if (negated) this.#at += 1;
    const ranges: [number, number][] = [];
    for (let first = true; first || this.#peek() !== ']'; first = false) {
      const from = this.#parseRangeEnd();
      const isRange = this.#peek() === '-' && this.#characters[this.#at + 1] !== ']';
      if (isRange) this.#at += 1;
      const to = isRange ? this.#parseRangeEnd() : from;
      if (to < from) refused('expected ranges from the lower to the higher character');
      ranges.push([from, to]);
    }
    this.#at += 1;
    return { kind: 'ranges', ranges, negated };
  }

  #parseRangeEnd(): number {
    const character = this.#next();
    if (character === undefined) return refused('expected a "]" after "["; the character itself is \\[');
    if (character === '[' && /^[:.=]$/.test(this.#peek() ?? '')) refused('expected ranges such as [a-z], no named classes');
    if (character !== '\\') return character.codePointAt(0) ?? 0;
    return symbolOfByte(this.#parseEscape()[0] ?? 0);
  }
}
