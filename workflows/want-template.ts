import { CancellationScope, log, startChild } from '@temporalio/workflow';
import { signalName, workflowId } from '../model/temporal.ts';
import type { Boot, VmSpec } from '../model/vm.ts';
import { keepTemplates } from './keep-templates.ts';
import { ownWay, unlessThere } from './own-way.ts';
import { tell } from './tell.ts';

/** A VM that booted for want of a template asks for one, for those that come after it; it waits for nothing. */
export function wantTemplate(vm: VmSpec, boot: Boot, pace: number): void {
  if (boot.kind !== 'cold' || boot.why !== 'no-template') return;
  void CancellationScope.nonCancellable(() => ask(vm, pace)).catch((error: unknown) => {
    // The next VM that boots asks again.
    log.info('A template could not be asked for', { vm: vm.id, error: String(error) });
  });
}

async function ask(vm: VmSpec, pace: number): Promise<void> {
  const id = workflowId.templates(vm.host);
  const started = await unlessThere(startChild(keepTemplates, { ...ownWay, workflowId: id, args: [vm.host, pace, [vm]] }));
  if (started === null) await tell(id, signalName.wanted, vm);
}
