/** A seed repeats a run: mulberry32, which is enough to choose mutations. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 to `below` - 1. */
  below(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  }

  of<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

const numbers = [
  0, 1, 2, 3, 4, 8, 12, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0x8001, 0xf30a, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
];

/** One change of some bytes in place: `places` are offsets that matter, such as those of a header's fields. */
export function changeBytes(random: Random, bytes: Buffer, places: readonly number[]): void {
  const at = random.of(places);
  const room = bytes.length - at;
  const kind = random.below(6);
  if (kind === 0) bytes[at] = random.below(256);
  else if (kind === 1) bytes[at] = bytes[at]! ^ (1 << random.below(8));
  else if (kind === 2 && room >= 2) bytes.writeUInt16LE(random.of(numbers) & 0xffff, at);
  else if (kind === 3 && room >= 4) bytes.writeUInt32LE(random.of(numbers), at);
  else if (kind === 4 && room >= 4) bytes.writeUInt32LE(random.below(2048), at);
  else bytes.copyWithin(at, random.of(places), random.of(places) + random.of([4, 8, 12, 32, 60, 128, 256]));
}

const pieces = [
  '"',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '\\',
  '\\u0000',
  '\u0000',
  '\n',
  ' ',
  '-',
  '.',
  '0',
  '1e999',
  'null',
  '*',
  '**',
  '!',
  '/',
  'é',
  '\ud800',
];

/** One change of a text, of any length. */
export function changeText(random: Random, text: string, others: readonly string[]): string {
  const from = random.below(text.length + 1);
  const to = Math.min(text.length, from + random.below(9));
  const kind = random.below(6);
  if (kind === 0) return text.slice(0, from) + random.of(pieces) + text.slice(from);
  if (kind === 1) return text.slice(0, from) + text.slice(to);
  if (kind === 2) return text.slice(0, to) + text.slice(from, to).repeat(1 + random.below(64)) + text.slice(to);
  if (kind === 3) return text.slice(0, from) + String(random.of(numbers)) + text.slice(to);
  if (kind === 4) return text.slice(0, from) + random.of(others).slice(random.below(20));
  return text.slice(0, from) + String.fromCharCode(random.below(256)) + text.slice(to);
}
