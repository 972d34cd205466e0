import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { migrationPhases } from '../../model/migration.ts';
import { vmOperationNames } from '../../model/vm-request.ts';
import * as workflows from '../../workflows/index.ts';
import { renderSagaTables, sagaTables } from '../../workflows/saga-tables.ts';

const names = (subject: string): string[] =>
  sagaTables.filter((table) => table.subject.includes(subject)).flatMap(({ steps }) => steps.map(({ name }) => name));

test('docs/sagas.md shows the steps of all sagas', async () => {
  await expect(renderSagaTables(sagaTables)).toMatchFileSnapshot(fileURLToPath(new URL('../../docs/sagas.md', import.meta.url)));
});

test('each table belongs to a workflow, and names each of its steps once', () => {
  for (const { workflow, steps } of sagaTables) {
    expect(Object.keys(workflows)).toContain(workflow);
    expect(new Set(steps.map(({ name }) => name)).size, workflow).toBe(steps.length);
  }
});

test('the tables of migrations have all phases, in their order', () => {
  const inTables = new Set(names('migration'));
  expect(migrationPhases.filter((phase) => inTables.has(phase))).toEqual([...migrationPhases]);
  for (const subject of ['live migration', 'cold migration']) {
    const steps = new Set(names(subject));
    expect(migrationPhases.filter((phase) => steps.has(phase))).toEqual(names(subject));
  }
});

test('the table of operations has all operations', () => {
  expect(names('operations').toSorted()).toEqual([...vmOperationNames].toSorted());
});
