import { describe, expect, it } from 'vitest';
import { audit } from '../../scheduler/simulation/audit/audit.ts';
import { simulateCells } from '../../scheduler/simulation/cells/simulate-cells.ts';
import { configurations } from '../../scheduler/simulation/configurations.ts';
import { generateTrace } from '../../scheduler/simulation/generate-trace.ts';
import { main } from '../../scheduler/simulation/simulate-command.ts';
import { simulate } from '../../scheduler/simulation/simulator.ts';
import type { Trace, TraceLease } from '../../scheduler/simulation/trace.ts';

const policy = configurations['predeploy-susp']!;

const reservation = (id: string, startAtS: number, nodes: number): TraceLease => ({
  id,
  kind: 'reservation',
  submittedAtS: 0,
  startAtS,
  durationS: 100,
  nodes,
  vcpus: 2,
  memoryMiB: 1024,
  image: '',
  imageMiB: 0,
});
const trace = (count: number, leases: TraceLease[]): Trace => ({
  name: 'cells',
  hosts: { count, vcpus: 2, memoryMiB: 1024 },
  leases,
});

describe('a site in cells', () => {
  it('of one cell does what the site does', () => {
    const whole = generateTrace('scale_par_n30_l300', 1)!;
    const { cells } = simulateCells(whole, policy, 1);
    const { actions, answers, endedAtS } = simulate(whole, policy);
    expect(cells[0]!.schedule).toMatchObject({ actions, answers, endedAtS });
  });

  it.each([2, 3, 7])('of %i cells keeps all guarantees in each, and loses no lease', (count) => {
    const whole = generateTrace('scale_par_n30_l300', 3)!;
    const { cells } = simulateCells(whole, policy, count);
    expect(cells.reduce((sum, { trace: own }) => sum + own.hosts.count, 0)).toBe(30);
    for (const cell of cells) expect(audit(cell.trace, cell.schedule)).toEqual([]);
    expect(cells.flatMap(({ trace: own }) => own.leases.map(({ id }) => id)).toSorted()).toEqual(
      whole.leases.map(({ id }) => id).toSorted(),
    );
    const answers = cells.flatMap(({ schedule }) => [...schedule.answers.keys()]);
    expect(answers.toSorted()).toEqual(whole.leases.map(({ id }) => id).toSorted());
  });

  it('gives a lease that one cell refuses to another, and refuses what none takes', () => {
    const leases = [reservation('a', 500, 2), reservation('b', 500, 2), reservation('c', 500, 1), reservation('d', 500, 3)];
    const { cells } = simulateCells(trace(4, leases), policy, 2);
    const accepted = cells.flatMap(({ schedule }) =>
      [...schedule.answers].filter(([, answer]) => answer.accepted).map(([id]) => id),
    );
    // Two cells of two hosts: both are full, and none is as wide as d.
    expect(accepted.toSorted()).toEqual(['a', 'b']);
    // The first cell has less to do, and is full at the time of f.
    const longer = { ...reservation('e', 900, 2), durationS: 150 };
    const routed = simulateCells(trace(4, [reservation('a', 500, 2), longer, reservation('f', 500, 2)]), policy, 2);
    expect(routed.passedOn).toBe(1);
    expect(routed.cells.map(({ trace: own }) => own.leases.map(({ id }) => id))).toEqual([['a'], ['e', 'f']]);
  });

  it('is a command, which says what is wrong with its options', () => {
    const lines: string[] = [];
    const run = (...argv: string[]) =>
      main(
        ['cells', ...argv],
        (line) => lines.push(line),
        (line) => lines.push(line),
      );
    expect(run('--generate', 'scale_ser_n8_l50', '--cells', '1,2', '--json')).toBe(0);
    expect(lines.map((line) => JSON.parse(line) as object)).toMatchObject([{ cells: 1 }, { cells: 2 }]);
    for (const argv of [
      ['--cells', '0'],
      ['--cells', '9', '--generate', 'scale_ser_n8_l50'],
      ['--generate', 'none'],
      ['--config', 'none'],
    ])
      expect(run(...argv)).toBe(2);
  });
});
