import { describe, expect, it } from 'vitest';
import { drainTransitions } from '../../../model/drain.ts';
import {
  hostTransitions,
  imageTransitions,
  isTerminal,
  taskStates,
  taskTransitions,
  terminalTaskStates,
  vmStates,
  vmStatesWithoutResources,
  vmTransitions,
} from '../../../model/states.ts';

/** test/ledger/transitions.test.ts shows that the ledger enforces the same tables. */
const tables = {
  task: taskTransitions,
  vm: vmTransitions,
  host: hostTransitions,
  image: imageTransitions,
  drain: drainTransitions,
};

function reachable(transitions: Record<string, readonly string[]>, from: string): Set<string> {
  const seen = new Set([from]);
  for (const state of seen) for (const next of transitions[state] ?? []) seen.add(next);
  return seen;
}

describe.each(Object.entries(tables))('the states of a %s', (_, transitions: Record<string, readonly string[]>) => {
  const states = Object.keys(transitions);

  it('lead only to states that exist, and none to itself', () => {
    for (const [from, next] of Object.entries(transitions)) {
      expect(states).toEqual(expect.arrayContaining([...next]));
      expect(next).not.toContain(from);
      expect(new Set(next).size).toBe(next.length);
    }
  });

  it('can all be reached from the first', () => {
    expect([...reachable(transitions, states[0] as string)].sort()).toEqual([...states].sort());
  });
});

it('a task can fail or be cancelled in every state, until it has ended', () => {
  for (const state of taskStates) {
    const next: readonly string[] = taskTransitions[state];
    if (isTerminal(state)) expect(terminalTaskStates).toContain(state);
    else expect(next).toEqual(expect.arrayContaining(['failed', 'cancelled']));
  }
});

it('a VM can be removed in every state, and remains removed', () => {
  for (const state of vmStates) expect(reachable(vmTransitions, state)).toContain('removed');
  expect(vmTransitions.removed).toEqual([]);
});

it('a VM begins to take resources when it is reserved, and by no other transition', () => {
  const takes = (state: string) => !(vmStatesWithoutResources as readonly string[]).includes(state);
  const begins = vmStates.flatMap((from) => (takes(from) ? [] : vmTransitions[from].filter(takes)));
  expect(begins).toEqual(['reserved']);
});
