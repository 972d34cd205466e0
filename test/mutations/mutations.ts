/** One guarantee of README, broken by one change of the product's code, and the test of `npm test` that has to notice. */
export interface Mutation {
  guarantee: string;
  /** The file, and the text that occurs in it once. */
  file: string;
  find: string;
  replace: string;
  /** Of test/projects.ts. */
  project: string;
  test: string;
  /** Only the tests whose names contain this, where the whole file takes long. */
  only?: string;
}

export const mutations: readonly Mutation[] = [
  {
    guarantee: 'a task ends with one completion event',
    file: 'ledger/tasks/finish-task.ts',
    find: "await writeEvent(tx, event, 'reject');",
    replace: '',
    project: 'ledger',
    test: 'ledger/course-of-a-task.test.ts',
  },
  {
    guarantee: 'its command is started at most once',
    file: 'drivers/guest/guest-job.ts',
    find: 'mkdir "$job" 2>/dev/null || { [ -d "$job" ]; exit; }',
    replace: 'mkdir -p "$job"',
    project: 'guest',
    test: 'guest/job.test.ts',
  },
  {
    guarantee: 'nothing is left behind: an undo is registered before its act',
    file: 'workflows/durable/saga.ts',
    find: 'if (undo !== undefined) this.#undos.push({ step: name, undo });\n    return act();',
    replace:
      'const result = await act();\n    if (undo !== undefined) this.#undos.push({ step: name, undo });\n    return result;',
    project: 'sagas',
    test: 'sagas/fault-matrix.test.ts',
    only: 'stageIn 1',
  },
  {
    guarantee: 'no host is promised more than it has',
    file: 'prisma/migrations/20261121000000_init/migration.sql',
    find: '(NEW."usedVcpus" > NEW.vcpus AND NEW."usedVcpus" > COALESCE(before."usedVcpus", 0))',
    replace: 'false',
    project: 'ledger',
    test: 'ledger/constraints.test.ts',
  },
  {
    guarantee: 'a plan that is stale when it is applied breaks no promise',
    file: 'scheduler/leases/site/plan-acts.ts',
    find: 'if (planned.hosts.get(id) !== now.hosts.get(id)) hosts.add(id);',
    replace: 'if (planned.hosts.size < 0) hosts.add(id);',
    project: 'unit',
    test: 'scheduler/stale-plans.test.ts',
    only: 'applied late',
  },
  {
    guarantee: 'a disk is never removed under a domain that may be alive',
    file: 'activities/host/vm/remove-disks.ts',
    find: "if (status !== null && status.state !== 'shutoff')",
    replace: "if (status !== null && status.state === 'running' && status.reason === 'never')",
    project: 'contract',
    test: 'contract/host-activities.test.ts',
  },
  {
    guarantee: 'no owner has more than its quotas',
    file: 'ledger/owners/quotas.ts',
    find: "await lockOwner(tx, 'quotas', owner);",
    replace: '',
    project: 'api',
    test: 'api/quotas.test.ts',
  },
  {
    guarantee: 'a revoked key is refused within two seconds',
    file: 'api/http/auth.ts',
    find: 'const cacheMs = 1_000;',
    replace: 'const cacheMs = 60_000;',
    project: 'api',
    test: 'api/keys.test.ts',
  },
  {
    guarantee: "no owner sees another's tasks",
    file: 'ledger/tasks/read-tasks.ts',
    find: 'where: { id, ...(owner !== null && { ownerId: owner }) }',
    replace: 'where: { id }',
    project: 'api',
    test: 'api/access.test.ts',
  },
  {
    guarantee: 'a guest reaches no private address without an exception',
    file: 'drivers/network/guest-firewall.ts',
    find: '...deniedRanges.map(',
    replace: '...deniedRanges.slice(1).map(',
    project: 'host',
    test: 'contract/guest-reach.real.test.ts',
  },
  {
    guarantee: 'the same POST is one task',
    file: 'ledger/idempotency.ts',
    find: 'if (key === null) return acceptance(await act(tx), false);',
    replace: 'if (tx !== null) return acceptance(await act(tx), false);',
    project: 'api',
    test: 'api/idempotency.test.ts',
  },
  {
    guarantee: 'a VM that moves runs at its target or where it was: silence is not taken for the end of the source',
    file: 'workflows/migration/decision-table.ts',
    find: "    arrived: 'observe',",
    replace: "    arrived: 'resumeTarget',",
    project: 'unit',
    test: 'unit/model/migration.test.ts',
  },
  {
    guarantee: 'a suspended VM loses nothing: incomplete memory is never restored',
    file: 'activities/host/vm/suspend.ts',
    find: 'if (record.suspended === null || !complete)',
    replace: 'if (record.suspended === null)',
    project: 'contract',
    test: 'contract/suspend.test.ts',
  },
  {
    guarantee: 'an accepted reservation has its hosts for its whole time',
    file: 'scheduler/leases/host-binding.ts',
    find: 'fitCount = Math.max(free, state.timeline.promised[host]!.fits(from, to, record.shape, nodes));',
    replace: 'fitCount = nodes;',
    project: 'unit',
    test: 'scheduler/invariants.test.ts',
  },
  {
    guarantee: 'a drained host is empty, by the hypervisor as well',
    file: 'ledger/drains/verify-empty.ts',
    find: 'if (remaining.length > 0) return recordRemaining(context, remaining);',
    replace: '',
    project: 'ledger',
    test: 'ledger/drains.test.ts',
  },
  {
    guarantee: 'a reader of events with a cursor misses none',
    file: 'prisma/migrations/20261121130000_number_events_at_commit/migration.sql',
    find: 'PERFORM pg_advisory_xact_lock(7305, 1);',
    replace: '',
    project: 'ledger',
    test: 'ledger/events.test.ts',
  },
  {
    guarantee: 'names of outputs are bytes, one-to-one',
    file: 'drivers/disk/ext4/list-files.ts',
    find: 'escapeName(entry.name)}`',
    replace: 'entry.name.toString()}`',
    project: 'unit',
    test: 'unit/drivers/disk/ext4/list-files.test.ts',
  },
  {
    guarantee: 'only folders that a pattern can lead into are read',
    file: 'drivers/disk/ext4/list-files.ts',
    find: 'if (selected.patterns.length === 0 && selected.folder === null) continue;',
    replace: "if (selected.patterns.length === 0 && selected.folder === null) selected.folder = new Selection(['**']).root();",
    project: 'unit',
    test: 'unit/drivers/disk/ext4/list-files.test.ts',
  },
  {
    guarantee: "reading a guest's disk has a budget",
    file: 'drivers/disk/ext4/budget.ts',
    find: 'this.#left[what] -= amount;',
    replace: '',
    project: 'unit',
    test: 'unit/drivers/disk/ext4/hostile.test.ts',
    only: 'thousands of empty leaves',
  },
  {
    guarantee: 'a block is once in an extent tree',
    file: 'drivers/disk/ext4/extents.ts',
    find: "if (this.#seen.has(block)) throw new Damage('its extent tree has a block twice');",
    replace: '',
    project: 'unit',
    test: 'unit/drivers/disk/ext4/hostile.test.ts',
    only: 'same ones again and again',
  },
  {
    guarantee: 'outputs that can be stored are stored',
    file: 'activities/host/task/stage-out.ts',
    find: 'if (reason === undefined) throw error;',
    replace: 'throw error;',
    project: 'contract',
    test: 'contract/host-activities.test.ts',
    only: 'are stored without that one',
  },
  {
    guarantee: 'a step that has crashed its worker twice is not begun again',
    file: 'activities/host/crash-guard.ts',
    find: 'if (crashes >= maxCrashes)',
    replace: 'if (crashes > 9)',
    project: 'contract',
    test: 'contract/crash-guard.test.ts',
  },
];
