import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import type { Trace } from '../scheduler/simulation/trace.ts';
import { readTrace } from '../scheduler/simulation/trace-formats.ts';

/** Haizea's measured figures for one trace in one configuration (test/traces/haizea.csv); null where it failed. */
export interface HaizeaRow {
  trace: string;
  config: string;
  rejected: number;
  completionS: number | null;
  waitMeanS: number;
  leasesPerS: number | null;
  transfers: boolean;
}

const folder = new URL('../test/traces/', import.meta.url);

export function loadTrace(name: string): Trace {
  return readTrace(gunzipSync(readFileSync(new URL(`${name}.json.gz`, folder))).toString('utf8'), name);
}

export function loadHaizea(): HaizeaRow[] {
  const [header, ...lines] = readFileSync(new URL('haizea.csv', folder), 'utf8').trim().split('\n');
  const columns = header!.split(',');
  return lines.map((line) => {
    const values = line.split(',');
    const get = (column: string) => values[columns.indexOf(column)] ?? '';
    return {
      trace: get('trace'),
      config: get('config'),
      rejected: Number(get('ar_rejected')),
      completionS: get('all_be_completion_s') === '' ? null : Number(get('all_be_completion_s')),
      waitMeanS: Number(get('wait_mean_s')),
      leasesPerS: get('leases_per_s') === '' ? null : Number(get('leases_per_s')),
      transfers: get('set') === 'patched_transfer',
    };
  });
}

export function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}
