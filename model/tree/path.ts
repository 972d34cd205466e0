import { isName } from '../outputs/names.ts';

/** Of a path as text; with the owner's id it stays below what an index of PostgreSQL takes (2704 bytes). */
export const treePathBytes = 2048;
export const treePathNames = 64;
/** Entries that one request copies, moves, deletes or restores: some seconds of the transaction's thirty. */
export const treeStepEntries = 100_000;

/** In the root: the folder of outputs, which only tasks write. */
export const taskFolder = 'tasks';

/** Why a text is no path of a tree; null: it is one. */
export function treePathProblem(path: string): string | null {
  if (Buffer.byteLength(path) > treePathBytes) return `expected at most ${treePathBytes} bytes`;
  const names = path.split('/');
  if (names.length > treePathNames) return `expected at most ${treePathNames} names`;
  // A byte that no file system has in a name can't be had back into one.
  const wrong = names.find((name) => !isName(name) || /\\x(?:00|2f)/.test(name));
  if (wrong === undefined) return null;
  if (wrong === '') return 'expected no empty name: one / between names, and none at the begin or the end';
  return 'expected names of 1 to 255 bytes, not . or .., without NUL and /, with \\xHH for each byte that is no printable UTF-8, and \\x5c for a backslash';
}

export const isInTaskFolder = (path: string): boolean => path === taskFolder || path.startsWith(`${taskFolder}/`);

/** The path of the folder that an entry lies in; null: the root. */
export function folderOf(path: string): string | null {
  const at = path.lastIndexOf('/');
  return at < 0 ? null : path.slice(0, at);
}

/** The paths of the folders that an entry lies in, outermost first. */
export function foldersOf(path: string): string[] {
  const names = path.split('/').slice(0, -1);
  return names.map((_, index) => names.slice(0, index + 1).join('/'));
}

/** The first text after all that begin with this one, in the order of bytes; null: there is none. */
export function afterPrefix(prefix: string): string | null {
  const points = Array.from(prefix, (character) => character.codePointAt(0) ?? 0);
  while (points.at(-1) === 0x10ffff) points.pop();
  const last = points.pop();
  if (last === undefined) return null;
  // There are no characters from 0xd800 to 0xdfff.
  return String.fromCodePoint(...points, last === 0xd7ff ? 0xe000 : last + 1);
}
