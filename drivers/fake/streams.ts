import { BerthError } from '../../model/errors.ts';
import { maxTailBytes } from '../../model/streams/console.ts';
import type { ConsoleHistory, Streams } from '../ports/streams.ts';
import { bug, type FakeState, pathsOf } from './state.ts';

/** A guest whose domain has the port runs the program as well. */
export const createFakeStreams = (state: FakeState): Streams => ({
  async open(domain, order) {
    const found = state.domains.get(domain);
    if (found === undefined) throw new BerthError('conflict', `connecting to ${domain}: it does not run on this host`);
    if (found.config.streamSocket === null && order.needsProgram && !order.console)
      throw new BerthError('guest-program-missing', `${domain} has no port of Berth's program`);
    if (state.streams.some((other) => other.order.id === order.id))
      throw new BerthError('unavailable', 'the API has taken this token already');
    state.streams.push({ domain, order: structuredClone(order) });
  },
});

export function createFakeConsoleHistory(state: FakeState): ConsoleHistory {
  const forget = (vmId: string): void => {
    state.histories.delete(vmId);
    state.expectedHistories.delete(vmId);
  };
  async function arrived(vmId: string): Promise<void> {
    const from = state.expectedHistories.get(vmId);
    if (from === undefined) return;
    const kept = state.hostsByAddress.get(from.address)?.keptHistories.get(`${vmId}.${from.generation}`);
    if (kept === undefined) return;
    state.histories.set(vmId, kept);
    state.expectedHistories.delete(vmId);
  }
  return {
    arrived,
    async expect(vmId, from) {
      if (state.domains.has(vmId)) throw bug(`beginning the console of ${vmId}, which runs, anew`);
      if (!state.records.has(vmId)) throw bug(`a console of ${vmId} before its record`);
      state.consoles.delete(pathsOf(vmId).console);
      forget(vmId);
      if (from !== null) state.expectedHistories.set(vmId, structuredClone(from));
    },
    async leave(vmId, forGeneration) {
      if (forGeneration !== null) {
        if (state.domains.has(vmId)) throw bug(`keeping the console of ${vmId}, which is still here`);
        await arrived(vmId);
        const all = `${state.histories.get(vmId) ?? ''}${state.consoles.get(pathsOf(vmId).console) ?? ''}`;
        for (const key of state.keptHistories.keys()) if (key.startsWith(`${vmId}.`)) state.keptHistories.delete(key);
        state.keptHistories.set(`${vmId}.${forGeneration}`, all.slice(-maxTailBytes));
      }
      state.expectedHistories.delete(vmId);
    },
  };
}
