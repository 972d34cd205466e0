import { consoleSpan } from '../../model/console.ts';
import type { VmStore } from '../ports/vm-store.ts';
import { bug, type FakeState, pathsOf, refuseLive } from './state.ts';

const fakeMemoryBytes = 64 * 2 ** 20;

export function createFakeVmStore(state: FakeState): VmStore {
  const disksIn = (vmId: string): string[] =>
    [...state.disks.keys()].filter((path) => path.startsWith(`${pathsOf(vmId).folder}/`));
  const refuseLiveFolder = (vmId: string, act: string): void => {
    for (const path of disksIn(vmId)) refuseLive(state, path, act);
  };
  const dropFolder = (vmId: string): void => {
    for (const path of disksIn(vmId)) state.disks.delete(path);
    state.inputs.delete(vmId);
    state.memories.delete(pathsOf(vmId).memory);
    state.memories.delete(pathsOf(vmId).memoryPartial);
    state.consoles.delete(pathsOf(vmId).console);
    state.histories.delete(vmId);
    state.expectedHistories.delete(vmId);
    state.records.delete(vmId);
  };
  return {
    paths: pathsOf,
    read: async (vmId) => structuredClone(state.records.get(vmId) ?? null),
    async writeDurably(record) {
      state.records.set(record.vmId, structuredClone(record));
    },
    async writeNonDurable(record) {
      const known = state.records.get(record.vmId);
      if (known?.generation !== record.generation) throw bug(`a new generation of ${record.vmId} that is not written durably`);
      state.records.set(record.vmId, structuredClone(record));
    },
    async resetInputs(vmId) {
      if (!state.records.has(vmId)) throw bug(`inputs of ${vmId} before its record`);
      state.inputs.set(vmId, new Map());
      return pathsOf(vmId).inputs;
    },
    async removeInputs(vmId) {
      state.inputs.delete(vmId);
    },
    async commitMemory(vmId) {
      const { memory, memoryPartial } = pathsOf(vmId);
      const saved = state.memories.get(memoryPartial);
      if (saved === undefined) return;
      if (!saved.complete) throw bug(`committing ${memoryPartial}, which is not complete`);
      state.memories.delete(memoryPartial);
      state.memories.set(memory, saved);
    },
    async removeMemory(vmId) {
      state.memories.delete(pathsOf(vmId).memory);
      state.memories.delete(pathsOf(vmId).memoryPartial);
    },
    memoryBytes: async (vmId) => (state.memories.has(pathsOf(vmId).memory) ? fakeMemoryBytes : 0),
    async readConsole(vmId, range) {
      const texts = [state.histories.get(vmId), state.consoles.get(pathsOf(vmId).console)];
      if (texts.every((text) => text === undefined)) return null;
      const all = Buffer.from(texts.join(''));
      const { from, to } = consoleSpan(range, all.length);
      return { from, totalBytes: all.length, bytes: all.subarray(from, to) };
    },
    freeMiB: async () => state.freeDisk.freeMiB,
    listIds: async () => [...state.records.values()].map(({ vmId }) => vmId),
    list: async () =>
      [...state.records.values()].map((record) => ({ vmId: record.vmId, record: structuredClone(record), bytes: 0 })),
    async remove(vmId, generation) {
      refuseLiveFolder(vmId, 'removing');
      state.removed.set(vmId, Math.max(generation, state.removed.get(vmId) ?? 0));
      dropFolder(vmId);
    },
    removedGeneration: async (vmId) => state.removed.get(vmId) ?? null,
    async quarantine(vmId) {
      refuseLiveFolder(vmId, 'quarantining');
      if (!state.records.has(vmId)) return;
      dropFolder(vmId);
      state.quarantined.set(vmId, state.clock.nowMs());
    },
    listQuarantined: async () => [...state.quarantined].map(([vmId, sinceMs]) => ({ vmId, sinceMs })),
    async removeQuarantined(vmId) {
      state.quarantined.delete(vmId);
    },
  };
}
