import { CancellationScope, log, startChild } from '@temporalio/workflow';
import { signalName, workflowId } from '../../model/temporal.ts';
import type { Boot, VmSpec } from '../../model/vm.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { notify } from '../durable/notify.ts';
import { buildTemplates } from './build-templates.ts';

/** A VM that booted for want of a template asks for one, for those that come after it; it waits for nothing. */
export function requestTemplate(vm: VmSpec, boot: Boot, pace: number): void {
  if (boot.kind !== 'cold' || boot.why !== 'no-template') return;
  void CancellationScope.nonCancellable(() => request(vm, pace)).catch((error: unknown) => {
    // The next VM that boots asks again.
    log.info('A template could not be asked for', { vm: vm.id, error: String(error) });
  });
}

async function request(vm: VmSpec, pace: number): Promise<void> {
  const id = workflowId.templates(vm.host);
  const started = await startIfAbsent(
    startChild(buildTemplates, { ...detachedChild, workflowId: id, args: [vm.host, pace, [vm]] }),
  );
  if (started === null) await notify(id, signalName.templateRequested, vm);
}
