import { symbolsOf, unescapeName } from './names.ts';
import { type Element, type Pattern, PatternError, parsePattern, type Segment } from './pattern-syntax.ts';

/**
 * Which files a list of patterns selects, found while folders are walked: a folder that no pattern can lead into need not be
 * read. Time is linear: for each name, its length times that of the patterns that are open there.
 */
export class Selection {
  readonly #includes: Pattern[] = [];
  readonly #excludes: Pattern[] = [];

  /** Texts that are no patterns, of tasks of an earlier version, match nothing. */
  constructor(texts: readonly string[]) {
    for (const text of texts) {
      const pattern = parseOrNull(text);
      if (pattern !== null) (pattern.exclude ? this.#excludes : this.#includes).push(pattern);
    }
  }

  /** /home/task itself. */
  root(): SelectedFolder {
    return new SelectedFolder(this.#includes.map(startOf), this.#excludes.map(startOf));
  }

  /** The including patterns that a path matches, a file's; escaped as escapeName does. */
  match(path: string): string[] {
    const names = path.split('/').map((name) => symbolsOf(unescapeName(name) ?? Buffer.from(name)));
    const last = names.pop() ?? [];
    let folder: SelectedFolder | null = this.root();
    for (const name of names) folder = folder?.enter(name).folder ?? null;
    return folder?.enter(last).patterns ?? [];
  }
}

function parseOrNull(text: string): Pattern | null {
  try {
    return parsePattern(text);
  } catch (error) {
    if (error instanceof PatternError) return null;
    throw error;
  }
}

/** How far a pattern has come in a folder: the parts that may be next, or all below. */
interface Progress {
  pattern: Pattern;
  next: readonly number[];
  all: boolean;
}

const startOf = (pattern: Pattern): Progress => ({ pattern, next: afterDeep(pattern.segments, [0]), all: false });

interface Entered {
  /** Including patterns that match, if it is a file; none where one excludes it. */
  patterns: string[];
  /** If it is a folder; null where nothing in it can be selected. */
  folder: SelectedFolder | null;
}

export class SelectedFolder {
  readonly #includes: readonly Progress[];
  readonly #excludes: readonly Progress[];

  constructor(includes: readonly Progress[], excludes: readonly Progress[]) {
    this.#includes = includes;
    this.#excludes = excludes;
  }

  /** All that is in it is selected, but for what patterns exclude and names that begin with a dot. */
  get whole(): boolean {
    return this.#includes.some(takesAll);
  }

  /** One name in this folder, as symbolsOf has it. */
  enter(name: readonly number[]): Entered {
    const includes = this.#includes.map((progress) => advance(progress, name));
    const patterns = includes.filter(({ matched }) => matched).map(({ below }) => below.pattern.text);
    const open = includes.map(({ below }) => below).filter(isOpen);
    if (patterns.length === 0 && open.length === 0) return { patterns, folder: null };
    const excludes = this.#excludes.map((progress) => advance(progress, name));
    const below = excludes.map((one) => one.below).filter(isOpen);
    return {
      patterns: excludes.some(({ matched }) => matched) ? [] : patterns,
      folder: open.length === 0 || below.some(takesAll) ? null : new SelectedFolder(open, below),
    };
  }
}

const isOpen = ({ next, all }: Progress): boolean => all || next.length > 0;

/** Of an excluding pattern: it leaves nothing to be found. */
const takesAll = ({ pattern: { segments }, next, all }: Progress): boolean =>
  all || (segments.at(-1) === 'deep' && next.includes(segments.length - 1));

/** `matched`: as a file. An excluding pattern's wildcards match a dot at a name's begin, so that nothing hidden escapes it. */
function advance({ pattern, next, all }: Progress, name: readonly number[]): { matched: boolean; below: Progress } {
  if (all) return { matched: true, below: { pattern, next, all } };
  const { segments, exclude } = pattern;
  const hidden = name[0] === dot && !exclude;
  const reached = new Set<number>();
  let ended = false;
  let named = false;
  for (const at of next) {
    const segment = segments[at];
    if (segment === 'deep') {
      if (hidden) continue;
      reached.add(at);
      ended ||= at === segments.length - 1;
    } else if (segment !== undefined && matchesName(segment, name, hidden)) {
      reached.add(at + 1);
      named ||= at === segments.length - 1;
    }
  }
  const below = { pattern, next: afterDeep(segments, [...reached]), all: (named || ended) && pattern.whole };
  return { matched: pattern.file && (ended || named), below };
}

/** Where a part is `**`, the one after it may be next as well: it may stand for no folder. Past the end is no part. */
function afterDeep(segments: readonly Segment[], places: readonly number[]): number[] {
  const found = new Set<number>();
  for (let place of places)
    for (; place < segments.length && !found.has(place); place += 1) {
      found.add(place);
      if (segments[place] !== 'deep') break;
    }
  return [...found];
}

const dot = 0x2e;

/** Goes back to the latest star alone: every other element takes exactly one symbol, so an earlier star need not take more. */
function matchesName(elements: readonly Element[], name: readonly number[], hidden: boolean): boolean {
  if (hidden && !(elements[0]?.kind === 'symbol' && elements[0].symbol === dot)) return false;
  let element = 0;
  let star = -1;
  let resume = 0;
  for (let at = 0; at < name.length; ) {
    const wanted = elements[element];
    if (wanted?.kind === 'star') {
      star = element;
      resume = at;
      element += 1;
    } else if (wanted !== undefined && takes(wanted, name[at] ?? 0)) {
      element += 1;
      at += 1;
    } else if (star >= 0) {
      resume += 1;
      at = resume;
      element = star + 1;
    } else return false;
  }
  while (elements[element]?.kind === 'star') element += 1;
  return element === elements.length;
}

function takes(element: Element, symbol: number): boolean {
  if (element.kind === 'symbol') return element.symbol === symbol;
  if (element.kind !== 'ranges') return element.kind === 'any';
  return element.ranges.some(([from, to]) => symbol >= from && symbol <= to) !== element.negated;
}
