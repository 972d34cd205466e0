import { readFileSync } from 'node:fs';

/** What the receivers of the benchmark have taken. */
export interface Load {
  events: number;
  /** Of those that came within the measured time: from the event's time until it was taken. */
  lagsMs: number[];
  /** What was out of order. */
  check: string[];
}

/** Kernel ticks are hundredths of a second (CLK_TCK). */
export function processorSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
