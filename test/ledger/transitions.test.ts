import { beforeAll, describe, expect, it } from 'vitest';
import { type DrainState, drainTransitions, isDrainOver } from '../../model/drain.ts';
import { hostTransitions, imageTransitions, taskTransitions, vmTransitions } from '../../model/states.ts';
import { addOwner, failure, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeAll(async () => {
  owner = await addOwner(fixture);
  await fixture.sql(`INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
    VALUES ('h', 'h', 'site', 'up', 1000000, 1000000, 1000000, '', 'qemu', '', '', now())`);
});

/** Inserts a row in a state, by table; the trigger checks transitions, not insertions. */
const insert: Record<string, (id: string, state: string) => Promise<unknown>> = {
  Task: async (id, state) => {
    await fixture.sql(`INSERT INTO "Lease" (id, "ownerId", kind, "durationS") VALUES ($1, $2, 'bestEffort', 1)`, [id, owner]);
    await fixture.sql(
      `INSERT INTO "Task" (id, "ownerId", name, spec, state, "leaseId") VALUES ($1, $2, '', '{}', $3::"TaskState", $1)`,
      [id, owner, state],
    );
  },
  Vm: (id, state) =>
    fixture.sql(
      `INSERT INTO "Vm" (id, "ownerId", name, vcpus, "memoryMiB", "diskMiB", state, "hostId", "homeId")
       VALUES ($1, $2, '', 1, 1, 1, $3::"VmState", 'h', 'h')`,
      [id, owner, state],
    ),
  Host: (id, state) =>
    fixture.sql(
      `INSERT INTO "Host" (id, address, provider, state, vcpus, "memoryMiB", "diskMiB", "cpuModel", accelerator, hypervisor, "bootId", "seenAt")
       VALUES ($1, $1, 'site', $2::"HostState", 1, 1, 1, '', 'qemu', '', '', now())`,
      [id, state],
    ),
  Drain: async (id, state) => {
    await insert.Host?.(`host-${id}`, 'up');
    await fixture.sql(
      `INSERT INTO "Drain" (id, "hostId", number, "ownerId", state, deadline, strategy, confidence, "wasSchedulable", "wasAccepting", "emptiedAt", "finishedAt")
       VALUES ($1, 'host-' || $1, 1, $2, $3::"DrainState", now(), 'auto', 0.99, true, true, now(), CASE WHEN $4 THEN now() END)`,
      [id, owner, state, isDrainOver(state as DrainState)],
    );
  },
  Image: (id, state) =>
    fixture.sql(
      `INSERT INTO "Image" (id, name, digest, state, recipe, "virtualMiB", cmdline, "sizeBytes", parts)
       VALUES ($1, $1, $1, $2::"ImageState", '{}', 1, '', 1, '{}')`,
      [id, state],
    ),
};

describe.each([
  ['Task', taskTransitions],
  ['Vm', vmTransitions],
  ['Host', hostTransitions],
  ['Image', imageTransitions],
  ['Drain', drainTransitions],
] as const)('%s', (table, transitions: Record<string, readonly string[]>) => {
  const states = Object.keys(transitions);

  it('has the states of the model and no others', async () => {
    const rows = await fixture.sql<{ label: string }>(
      `SELECT e.enumlabel AS label FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid WHERE t.typname = $1 ORDER BY e.enumsortorder`,
      [`${table}State`],
    );
    expect(rows.map((row) => row.label)).toEqual(states);
  });

  it.each(states)('changes from %s exactly as the model allows', async (from) => {
    const moved: string[] = [];
    for (const to of states) {
      if (to === from) continue;
      const id = `${table}-${from}-${to}`;
      await insert[table]?.(id, from);
      const generation = table === 'Vm' ? ', generation = generation + 1' : '';
      const finished = table === 'Drain' && isDrainOver(to as DrainState) ? ', "finishedAt" = now()' : '';
      const move = fixture.sql(`UPDATE "${table}" SET state = $2::"${table}State"${generation}${finished} WHERE id = $1`, [
        id,
        to,
      ]);
      const refused = await move.then(
        () => null,
        (error: { code?: string }) => error.code,
      );
      if (refused === null) moved.push(to);
      else expect(refused).toBe('BE001');
    }
    const legal = states.filter((to) => transitions[from]?.includes(to));
    expect(moved).toEqual(legal);
  });

  it('may be written again as it is', async () => {
    for (const state of states) {
      await insert[table]?.(`${table}-${state}-same`, state);
      await fixture.sql(`UPDATE "${table}" SET state = $2::"${table}State" WHERE id = $1`, [`${table}-${state}-same`, state]);
    }
  });
});

it('names the refused transition', async () => {
  await insert.Task?.('task-x', 'queued');
  const error = await failure(fixture.sql(`UPDATE "Task" SET state = 'succeeded' WHERE id = 'task-x'`));
  expect(error.message).toBe('Task task-x cannot go from queued to succeeded');
});
