import { expect, it } from 'vitest';
import type { LoadSettings } from '../../../model/load/load.ts';
import type { WatchVerdict } from '../../../model/load/watch-verdict.ts';
import { HostWatchdog } from '../../../workers/load/host-watchdog.ts';

/** A watchdog, and what it has requests for at which second. */
function openWatchdog(settings: LoadSettings = { heartbeatS: 10, asksForHelp: true }) {
  const requests: { atS: number; verdict: WatchVerdict }[] = [];
  let atS = 0;
  const watchdog = new HostWatchdog(() => settings);
  const pass = (seconds: number, use: number, steal: number) => {
    for (let n = 0; n < seconds; n += 1) {
      atS += 1;
      const verdict = watchdog.observe({ atMs: atS * 1000, durationS: 1, use, steal, psi: null });
      if (verdict !== null) requests.push({ atS, verdict });
    }
  };
  return { watchdog, requests, pass, settings };
}

it('an overload asks for help after ten seconds, and again half as long after as it has lasted', () => {
  const { requests, pass } = openWatchdog();
  pass(100, 0.3, 0);
  pass(100, 1, 0.3);
  const times = requests.map(({ atS }) => atS - 100);
  expect(times.slice(0, 3)).toEqual([10, 20, 30]);
  expect(times.slice(3)).toEqual([45, 68]);
  expect(requests[0]!.verdict).toMatchObject({ asks: true, kind: 'processors', seen: { use: 1, steal: 0.3 } });
});

it('a spike of eight seconds asks for nothing, nor do busy processors for which nothing waits', () => {
  const { requests, pass } = openWatchdog();
  for (let n = 0; n < 20; n += 1) {
    pass(8, 1, 0.5);
    pass(20, 0.2, 0);
  }
  pass(300, 1, 0);
  expect(requests.filter(({ verdict }) => verdict.kind !== 'unusual')).toEqual([]);
});

it('after a VM has left the stress counts from its begin', () => {
  const { watchdog, requests, pass } = openWatchdog();
  pass(12, 1, 0.3);
  watchdog.vmLeft();
  pass(12, 1, 0.3);
  expect(requests.map(({ atS }) => atS)).toEqual([10, 22]);
});

it('nothing is requests while nobody would answer; what is learned meanwhile counts', () => {
  const { requests, pass, settings } = openWatchdog({ heartbeatS: 10, asksForHelp: false });
  pass(30, 1, 0.3);
  expect(requests).toEqual([]);
  settings.asksForHelp = true;
  pass(1, 1, 0.3);
  expect(requests).toHaveLength(1);
});
