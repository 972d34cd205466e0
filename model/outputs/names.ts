/**
 * Names of files are bytes. In JSON, in the ledger and in patterns they are text, one-to-one: what is valid UTF-8 and
 * printable stands for itself; each other byte, and each byte of a backslash, is `\xHH` with two lower-case digits. So no two
 * names have one text, and `unescapeName` gives the bytes back.
 */

/** A byte that is not part of valid UTF-8 is the symbol of this plus the byte: more than any code point. */
const invalidByte = 0x110000;

/** Lengths, in bytes, that Linux has for one name; and that Berth has for the path of an output, as text. */
const nameBytes = 255;
export const outputPathBytes = 1024;

const slash = 0x2f;

/** Code point and length of the UTF-8 sequence at `at`; null for a byte that begins none (RFC 3629, table 3-7 of Unicode). */
function decodeAt(bytes: Uint8Array, at: number): { point: number; length: number } | null {
  const first = bytes[at] ?? 0;
  if (first < 0x80) return { point: first, length: 1 };
  const length = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
  if (length === 0 || at + length > bytes.length) return null;
  let point = first & (0x7f >> length);
  for (let index = 1; index < length; index += 1) {
    const next = bytes[at + index] ?? 0;
    if ((next & 0xc0) !== 0x80) return null;
    point = (point << 6) | (next & 0x3f);
  }
  const least = length === 2 ? 0x80 : length === 3 ? 0x800 : 0x10000;
  const surrogate = point >= 0xd800 && point <= 0xdfff;
  return point < least || point > 0x10ffff || surrogate ? null : { point, length };
}

/** The characters of a name, as a pattern sees them: code points, and bytes that are none. */
export function symbolsOf(bytes: Uint8Array): number[] {
  const symbols: number[] = [];
  for (let at = 0; at < bytes.length; ) {
    const decoded = decodeAt(bytes, at);
    symbols.push(decoded?.point ?? symbolOfByte(bytes[at] ?? 0));
    at += decoded?.length ?? 1;
  }
  return symbols;
}

export const symbolOfByte = (byte: number): number => (byte < 0x80 ? byte : invalidByte + byte);

/** Controls, and what reverses or breaks the line that shows a name. The list is fixed: the text of a name never changes. */
const isHidden = (point: number): boolean =>
  point < 0x20 ||
  (point >= 0x7f && point <= 0x9f) ||
  point === 0x061c ||
  point === 0x200e ||
  point === 0x200f ||
  (point >= 0x2028 && point <= 0x202e) ||
  (point >= 0x2066 && point <= 0x2069) ||
  point === 0xfeff;

const hex = (byte: number): string => `\\x${byte.toString(16).padStart(2, '0')}`;

/** The text of one name. A `/`, which only a damaged file system has in a name, is escaped as well. */
export function escapeName(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const decoded = decodeAt(bytes, at);
    const length = decoded?.length ?? 1;
    const shown = decoded !== null && decoded.point !== 0x5c && decoded.point !== slash && !isHidden(decoded.point);
    if (shown) text += String.fromCodePoint(decoded.point);
    else for (const byte of bytes.subarray(at, at + length)) text += hex(byte);
    at += length;
  }
  return text;
}

/** The bytes of a name from its text; null for what escapeName never makes. */
export function unescapeName(text: string): Uint8Array | null {
  if (!text.isWellFormed() || /\\(?!x[0-9a-f]{2})/.test(text)) return null;
  const parts = text.split(/\\x([0-9a-f]{2})/);
  const bytes = Buffer.concat(parts.map((part, index) => (index % 2 === 1 ? Buffer.from(part, 'hex') : Buffer.from(part))));
  return escapeName(bytes) === text ? bytes : null;
}

/** Whether a text is one name: as escapeName writes it, of 1 to 255 bytes, and neither `.` nor `..`. */
export function isName(text: string): boolean {
  const bytes = unescapeName(text);
  return bytes !== null && bytes.length > 0 && bytes.length <= nameBytes && text !== '.' && text !== '..';
}

/** Whether a text is the path of an output: names, at most 1024 bytes together. */
export function isOutputPath(path: string): boolean {
  return Buffer.byteLength(path) <= outputPathBytes && path.split('/').every(isName);
}
