import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The folders of the product, in the order of docs/architecture.md; test/ and infra/ are listed separately. */
export const productFolders = [
  'model',
  'contracts',
  'scheduler',
  'ledger',
  'prisma',
  'workflows',
  'activities',
  'drivers',
  'workers',
  'api',
  'sdk',
  'cli',
  'bench',
] as const;

export const readText = (path: string): string => readFileSync(path, 'utf8');

/** Paths of the files beneath a folder, sorted. */
export function filesBeneath(folder: string, suffix = ''): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(suffix))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !path.includes('node_modules/'))
    .sort();
}

/** Tokens that may come before a regular expression: after any other a slash divides. */
const beforeRegExp = /(?:^|[([{,;=:!&|?+\-*%<>~^]|=>|\b(?:return|typeof|case|in|of|do|else|void|await|yield))\s*$/;

/** A TypeScript text without its comments, and with strings and regular expressions emptied; `${…}` of templates is kept. */
export function stripProse(text: string): string {
  let out = '';
  let at = 0;
  /** The depths of braces at which open templates continue. */
  const templates: number[] = [];
  let depth = 0;
  const skipTemplate = (): void => {
    while (at < text.length) {
      if (text[at] === '\\') at += 2;
      else if (text[at] === '`') {
        at += 1;
        return;
      } else if (text.startsWith('${', at)) {
        at += 2;
        out += ' ';
        templates.push(depth);
        depth += 1;
        return;
      } else at += 1;
    }
  };
  while (at < text.length) {
    const char = text[at]!;
    if (text.startsWith('//', at)) at = endOf(text, '\n', at);
    else if (text.startsWith('/*', at)) at = endOf(text, '*/', at) + 2;
    else if (char === "'" || char === '"') {
      at += 1;
      while (at < text.length && text[at] !== char && text[at] !== '\n') at += text[at] === '\\' ? 2 : 1;
      at += 1;
      out += "''";
    } else if (char === '`') {
      at += 1;
      skipTemplate();
    } else if (char === '/' && beforeRegExp.test(out.slice(-16))) {
      at += 1;
      for (let inClass = false; at < text.length && text[at] !== '\n' && (inClass || text[at] !== '/'); at += 1) {
        if (text[at] === '\\') at += 1;
        else if (text[at] === '[') inClass = true;
        else if (text[at] === ']') inClass = false;
      }
      at += 1;
      out += "''";
    } else {
      if (char === '{') depth += 1;
      if (char === '}') {
        depth -= 1;
        if (templates.at(-1) === depth) {
          templates.pop();
          at += 1;
          out += ' ';
          skipTemplate();
          continue;
        }
      }
      out += char;
      at += 1;
    }
  }
  return out;
}

function endOf(text: string, mark: string, from: number): number {
  const at = text.indexOf(mark, from);
  return at < 0 ? text.length : at;
}

/** The identifiers of a TypeScript text. */
export const identifiersOf = (text: string): Set<string> => new Set(stripProse(text).match(/[A-Za-z_$][\w$]*/g) ?? []);
