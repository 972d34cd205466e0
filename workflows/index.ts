export { keepHouse } from './keep-house.ts';
export { keepTemplates } from './keep-templates.ts';
export { migrateVm } from './migrate-vm.ts';
export { prestage } from './prestage.ts';
export { reconcileHost } from './reconcile-host.ts';
export { runTask } from './run-task.ts';
export { watchHost } from './watch-host.ts';
