import { describe, expect, it } from 'vitest';
import type { BalanceDecision } from '../../scheduler/balance/decision.ts';
import { balancePolicy, coolingUntilMs } from '../../scheduler/balance/site.ts';
import { createBerthRule } from '../../scheduler/simulation/balance/berth-rule.ts';
import { createCloudStackRule, createIncusRule, createProxmoxRule } from '../../scheduler/simulation/balance/other-rules.ts';
import { noRule } from '../../scheduler/simulation/balance/rule.ts';
import { simulateBalance } from '../../scheduler/simulation/balance/simulate-balance.ts';
import { SimulatedSite, stepS } from '../../scheduler/simulation/balance/simulated-site.ts';
import { generateBalanceTrace, type TraceVm } from '../../scheduler/simulation/balance/workload.ts';
import { main } from '../../scheduler/simulation/simulate-command.ts';

const trace = generateBalanceTrace('azure', 1, 16, 12);
const partOf = (vms: readonly TraceVm[], holds: (vm: TraceVm) => boolean): number => vms.filter(holds).length / vms.length;

describe('generated VMs', () => {
  const arrived = generateBalanceTrace('azure', 1, 200, 200).vms.filter(({ arrivesS }) => arrivesS > 0);

  it('have the published sizes, lifetimes and use', () => {
    expect(arrived.length).toBeGreaterThan(20_000);
    expect(partOf(arrived, ({ vcpus }) => vcpus <= 2)).toBeCloseTo(0.58, 1);
    expect(partOf(arrived, ({ endsS, arrivesS }) => endsS - arrivesS <= 3600)).toBeCloseTo(0.65, 1);
    expect(partOf(arrived, ({ endsS, arrivesS }) => endsS - arrivesS <= 100 * 3600)).toBeCloseTo(0.92, 1);
    const average = ({ busyPart, busyCpus, idleCpus, vcpus }: TraceVm) =>
      (busyPart * busyCpus + (1 - busyPart) * idleCpus) / vcpus;
    expect(partOf(arrived, (vm) => average(vm) <= 0.2)).toBeCloseTo(0.75, 1);
  });

  it('are the same for a seed, and others for another', () => {
    expect(generateBalanceTrace('azure', 1, 16, 12)).toEqual(trace);
    expect(generateBalanceTrace('azure', 2, 16, 12).vms[0]).not.toEqual(trace.vms[0]);
  });

  it('are there all along: those of the first moment are long-lived', () => {
    expect(
      partOf(
        trace.vms.filter(({ arrivesS }) => arrivesS === 0),
        ({ endsS, ageS }) => endsS + ageS > 24 * 3600,
      ),
    ).toBeGreaterThan(0.7);
  });
});

describe('a simulated site', () => {
  it('has the same demand with every rule, and never more on a host than it promised', () => {
    const sums = [() => noRule, createIncusRule, createBerthRule].map((create) => {
      const site = new SimulatedSite(trace);
      const rule = create(site);
      for (let step = 0; step < (4 * 3600) / stepS; step++) {
        site.advance();
        rule.step(site);
        for (let host = 0; host < trace.hosts; host++) {
          expect(site.usedVcpus[host]).toBeLessThanOrEqual(trace.capacity.vcpus);
          expect(site.usedMemoryMiB[host]).toBeLessThanOrEqual(trace.capacity.memoryMiB);
        }
      }
      return trace.vms.reduce((sum, _, vm) => sum + (site.hostOf[vm] === -1 ? 0 : site.level[vm]!), 0);
    });
    expect(sums[1]).toBeCloseTo(sums[0]!, 6);
    expect(sums[2]).toBeCloseTo(sums[0]!, 6);
  });

  it('counts what its VMs want at the host where each is', () => {
    const site = new SimulatedSite(trace);
    const rule = createIncusRule(site);
    for (let step = 0; step < 3600 / stepS; step++) {
      site.advance();
      rule.step(site);
    }
    while (site.migrations().length > 0) site.advance();
    for (let host = 0; host < trace.hosts; host++) {
      const wanted = [...site.vmsOf[host]!].reduce((sum, vm) => sum + site.level[vm]!, 0);
      expect(site.demand[host]).toBeCloseTo(wanted, 6);
    }
  });
});

describe('the balancer over two days', () => {
  const decisions: BalanceDecision[] = [];
  let site: SimulatedSite;
  const ours = simulateBalance(generateBalanceTrace('azure', 1, 32, 48), (created) => {
    site = created;
    return createBerthRule(created, balancePolicy, (decision) => decisions.push(decision));
  });
  const off = simulateBalance(generateBalanceTrace('azure', 1, 32, 48), () => noRule);

  it('leaves less than half of what starves, and two thirds of the overload', () => {
    expect(off.overloadH).toBeGreaterThan(10);
    expect(ours.starvedCpuH).toBeLessThan(off.starvedCpuH / 2);
    expect(ours.overloadH).toBeLessThan((off.overloadH * 2) / 3);
  });

  it('moves no VM within its cool-down', () => {
    expect(ours.pingPong).toBe(0);
    const moved = new Map<number, number[]>();
    for (const { vm, atS } of site.moves) {
      const before = moved.get(vm) ?? [];
      expect(coolingUntilMs(before, atS * 1000, balancePolicy)).toBeLessThanOrEqual(atS * 1000);
      moved.set(vm, [...before, atS * 1000]);
    }
  });

  it('says why for every host that asked', () => {
    expect(decisions.length).toBeGreaterThan(ours.moves);
    for (const { outcome, seen } of decisions) {
      expect(seen.asks).toBe(true);
      expect(outcome.kind === 'move' ? outcome.moves.length : outcome.why.length).toBeGreaterThan(0);
    }
  });

  it('is the same every time', () => {
    const again = simulateBalance(generateBalanceTrace('azure', 1, 32, 48), (created) => createBerthRule(created));
    expect({ ...again, runS: 0 }).toEqual({ ...ours, runS: 0 });
  });
});

describe('the rules of other systems', () => {
  it.each([createProxmoxRule, createCloudStackRule, createIncusRule])('move more below a lower threshold: %o', (create) => {
    const moves = (threshold: number) => simulateBalance(trace, (site) => create(site, threshold)).moves;
    expect(moves(1)).toBe(0);
    expect(moves(0.02)).toBeGreaterThan(0);
  });
});

describe('npm run simulate -- balance', () => {
  const run = (...argv: string[]) => {
    const out: string[] = [];
    const err: string[] = [];
    return {
      code: main(
        ['balance', ...argv],
        (line) => out.push(line),
        (line) => err.push(line),
      ),
      out,
      err,
    };
  };

  it('prints the rules side by side', () => {
    const { code, out } = run('--hosts', '4', '--hours', '1', '--rules', 'off,berth,incus', '--equal-moves', '3');
    expect(code).toBe(0);
    expect(out[0]).toMatch(/^ +off +berth +incus \(threshold /);
    expect(out.find((line) => line.startsWith('overloaded host-hours'))).toBeDefined();
  });

  it('measures a decision', () => {
    const { out } = run('--hosts', '40', '--decision');
    expect(JSON.parse(out[0]!)).toMatchObject({ hosts: 40, asking: 2 });
  });

  it.each([['--hosts', '5001'], ['--workload', 'x'], ['--rules', 'x'], ['--seed', 'x'], ['--nothing']])(
    'refuses %s %s',
    (...argv) => {
      expect(run(...argv)).toMatchObject({ code: 2, out: [] });
    },
  );
});
