import { describe, expect, it } from 'vitest';
import { loadHaizea, loadTrace, mean } from '../../bench/haizea.ts';
import { audit } from '../../scheduler/simulation/audit/audit.ts';
import { configurations } from '../../scheduler/simulation/configurations.ts';
import { measure } from '../../scheduler/simulation/metrics.ts';
import { simulate } from '../../scheduler/simulation/simulator.ts';

const results = loadHaizea().map((row) => {
  const trace = loadTrace(row.trace);
  const schedule = simulate(trace, configurations[row.config]!);
  return { row, ours: measure(trace, schedule), broken: audit(trace, schedule) };
});
const finished = results.filter(({ row }) => row.completionS !== null);
const ratios = (transfers: boolean) =>
  finished.filter(({ row }) => row.transfers === transfers).map(({ row, ours }) => ours.all_be_completion_s / row.completionS!);

describe('on every trace and configuration of the Haizea measurements', () => {
  it('no guarantee is broken and every lease is done or refused', () => {
    for (const { row, ours, broken } of results) {
      expect(broken, `${row.trace} ${row.config}`).toEqual([]);
      expect(ours.be_done + ours.ar_done + ours.rejections).toBe(ours.leases);
    }
  });

  it('best-effort work is complete no later than with Haizea, but for 1 %, on each', () => {
    for (const { row, ours } of finished) {
      expect(ours.all_be_completion_s / row.completionS!, `${row.trace} ${row.config}`).toBeLessThanOrEqual(1.01);
    }
  });

  it('and on average 3 % earlier with image transfers, 1 % without', () => {
    expect(mean(ratios(true))).toBeLessThanOrEqual(0.97);
    expect(mean(ratios(false))).toBeLessThanOrEqual(0.99);
  });

  it('no more reservations are refused', () => {
    for (const { row, ours } of finished)
      expect(ours.ar_rejected, `${row.trace} ${row.config}`).toBeLessThanOrEqual(row.rejected);
  });

  it('the mean wait is no longer, on average', () => {
    expect(mean(finished.map(({ ours }) => ours.wait_mean_s))).toBeLessThanOrEqual(
      mean(finished.map(({ row }) => row.waitMeanS)),
    );
  });
});
