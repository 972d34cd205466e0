/**
 * Why a file that an output pattern selects was not stored. The content of all but the first two is lost; those have none of
 * their own.
 */
export const skipReasons = [
  'symbolic-link',
  'special-file',
  'name-too-long',
  'too-many-files',
  'too-large',
  'damaged',
  'budget-spent',
  'quota-exceeded',
  'refused',
] as const;
export type SkipReason = (typeof skipReasons)[number];

export interface SkippedFile {
  /** Escaped as escapeName does; the folder where its files were not found. Empty: /home/task. */
  path: string;
  reason: SkipReason;
  /** What was found, for a reader. */
  detail: string;
}

/** A skipped file of a task, with the index of the VM that wrote it. */
export interface SkippedOutput extends SkippedFile {
  node: number;
}

/** Files that were skipped: the first of them, and the number of all. */
export interface SkippedFiles {
  listed: SkippedFile[];
  count: number;
  /** Number of those whose content is lost. */
  lost: number;
}

/**
 * The bounds of what is told of skipped files, for one VM and for a task: at the most 45 KiB and 75 KiB of the 256 KiB that
 * a workflow's payload may have.
 */
const maxSkippedListed = 30;
const maxSkippedOfTask = 50;
const maxPathChars = 300;
const maxDetailChars = 200;

/** Of a task: rows of what is lost first, as many as there is space for. */
export interface SkippedOutputs extends SkippedFiles {
  listed: SkippedOutput[];
}

/** @param nodes what each VM of a task skipped, by node */
export function skippedOfTask(nodes: readonly SkippedFiles[]): SkippedOutputs {
  const rows = nodes.flatMap(({ listed }, node) => listed.map((row) => ({ ...row, node })));
  const [lost, others] = [rows.filter(({ reason }) => losesContent(reason)), rows.filter(({ reason }) => !losesContent(reason))];
  const sum = (of: (one: SkippedFiles) => number): number => nodes.reduce((total, one) => total + of(one), 0);
  return {
    listed: [...lost, ...others].slice(0, maxSkippedOfTask),
    count: sum(({ count }) => count),
    lost: sum((one) => one.lost),
  };
}

/** Why a task fails that wants all of its outputs. */
export function describeLost({ listed, lost }: SkippedOutputs): string {
  const described = listed
    .filter(({ reason }) => losesContent(reason))
    .slice(0, 3)
    .map(({ path, detail }) => `${path === '' ? '/home/task' : JSON.stringify(path)}: ${detail}`);
  const more = lost > described.length ? `; and ${lost - described.length} more` : '';
  return `Outputs were not stored: ${described.join('; ')}${more}. The others were; skippedOutputs has the reasons`;
}

const losesContent = (reason: SkipReason): boolean => reason !== 'symbolic-link' && reason !== 'special-file';

export const noneSkipped = (): SkippedFiles => ({ listed: [], count: 0, lost: 0 });

/** Adds one file; `count`: for how many it stands. What is lost is listed before what is not. */
export function skip(into: SkippedFiles, { path, reason, detail }: SkippedFile, count = 1): void {
  into.count += count;
  const lost = losesContent(reason);
  if (lost) into.lost += count;
  const row = { path: shorten(path, maxPathChars), reason, detail: shorten(detail, maxDetailChars) };
  if (into.listed.length >= maxSkippedListed) {
    const last = lost ? into.listed.findLastIndex((one) => !losesContent(one.reason)) : -1;
    if (last < 0) return;
    into.listed.splice(last, 1);
  }
  into.listed.push(row);
}

const shorten = (text: string, maxChars: number): string => (text.length <= maxChars ? text : `${text.slice(0, maxChars)}…`);
