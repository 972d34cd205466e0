import { helpSteps } from './balance/help-host.ts';
import { drainSteps } from './drain/drain-host.ts';
import { reservationSteps } from './drain/reserve-hosts.ts';
import type { StepRow } from './durable/step.ts';
import { buildSteps } from './image/build-image.ts';
import { templateSteps } from './image/build-templates.ts';
import { coldMigrationSteps, liveMigrationSteps } from './migration/migrate-vm.ts';
import { taskSteps } from './task/run-task.ts';
import { operationSteps } from './vm/operations.ts';
import { vmSteps } from './vm/run-vm.ts';

export interface SagaTable {
  /** Type of the workflow. */
  workflow: string;
  subject: string;
  steps: readonly StepRow[];
}

/** The tables of all sagas, from which docs/sagas.md is rendered. */
export const sagaTables: readonly SagaTable[] = [
  { workflow: 'runTask', subject: 'a task; the steps from stageIn to stageOut run on each of its nodes', steps: taskSteps },
  { workflow: 'runVm', subject: 'a standalone VM', steps: vmSteps },
  { workflow: 'runVm', subject: 'the operations on a standalone VM', steps: operationSteps },
  { workflow: 'migrateVm', subject: 'a live migration', steps: liveMigrationSteps },
  { workflow: 'migrateVm', subject: 'a cold migration', steps: coldMigrationSteps },
  { workflow: 'drainHost', subject: 'one round of the drain of a host', steps: drainSteps },
  { workflow: 'reserveHosts', subject: 'a reservation of whole hosts', steps: reservationSteps },
  { workflow: 'buildImage', subject: 'an image', steps: buildSteps },
  { workflow: 'helpHost', subject: 'a host that asks for help', steps: helpSteps },
  { workflow: 'buildTemplates', subject: 'one template on a host', steps: templateSteps },
];

const row = (cells: string[]): string => `| ${cells.join(' | ')} |`;

/** docs/sagas.md; test/unit/saga-tables.test.ts compares it with this. */
export function renderSagaTables(tables: readonly SagaTable[]): string {
  const sections = tables.map(({ workflow, subject, steps }) => [
    `## ${workflow}: ${subject}`,
    '',
    row(['step', 'does', 'undone by']),
    row(['---', '---', '---']),
    ...steps.map(({ name, does, undoneBy }) => row([name, does, undoneBy])),
    '',
  ]);
  return ['# Sagas', '', ...introduction, '', ...sections.flat()].join('\n');
}

const introduction = [
  'The steps of each saga, in order, from the lists in `workflows/` (rendered by `workflows/saga-tables.ts`; after a change of',
  'a list, `npm run docs` writes this file). An undo is registered before its step acts, because the',
  'outcome of a step that timed out is unknown. Undos run last in first out, and each is retried until it succeeds.',
];
